"""The statistics of a label, and the files that hold those of a scan: JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ctseg.metrics.statistics.shapes import Shape
from ctseg.specs import Label

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_NAMES = ("p5", "p25", "median", "p75", "p95")


@dataclass(frozen=True)
class MeasuredValues:
    """A channel of the scan within a label.

    Attributes:
        mean, std: mean and standard deviation (divided by the number of voxels).
        low, high: smallest and largest value.
        shares: the quantiles of `SHARES`.
    """

    mean: float
    std: float
    low: float
    high: float
    shares: tuple[float, ...]

    def plain(self) -> dict[str, float]:
        """The numbers by name."""
        shares = dict(zip(_NAMES, self.shares, strict=True))
        return {
            name: _rounded(value)
            for name, value in (
                ("mean", self.mean), ("std", self.std), ("min", self.low), *shares.items(), ("max", self.high)
            )
        }  # fmt: skip


@dataclass(frozen=True)
class MeasuredLabel:
    """A label of a map.

    Attributes:
        label: its name and value; the name may be empty.
        shape: None if it has no voxels.
        voxel_mm3: volume of a voxel; None if the voxel size is unknown.
        centroid_xyz_mm: centroid in LPS.
        at_edge: whether it touches the first or last slice, row or column of the scan, which may cut it. Axes of one
            voxel do not count.
        channels: the values of each channel of the scan.
    """

    label: Label
    shape: Shape | None
    voxel_mm3: float | None
    centroid_xyz_mm: tuple[float, float, float] | None
    at_edge: bool
    channels: tuple[MeasuredValues, ...]

    @property
    def name(self) -> str:
        return self.label.name or f"label {self.label.value}"

    def plain(self) -> dict[str, Any]:
        """All numbers by name, as in the JSON file."""
        shape = self.shape
        voxels, largest = (0, 0) if shape is None else (shape.voxels, shape.largest)
        known = self.voxel_mm3 is not None or shape is None
        mm3 = self.voxel_mm3 or 0.0
        return {
            "name": self.name,
            "value": self.label.value,
            "voxels": voxels,
            "volume_mm3": _rounded(voxels * mm3) if known else None,
            "volume_ml": _rounded(voxels * mm3 / 1000) if known else None,
            "values": [channel.plain() for channel in self.channels],
            "centroid_xyz_mm": _listed(self.centroid_xyz_mm),
            "centroid_zyx": None if shape is None else _listed(shape.centroid_zyx),
            "box_zyx": None if shape is None else [list(span) for span in shape.box_zyx],
            "parts": 0 if shape is None else shape.parts,
            "largest_part_voxels": largest,
            "largest_part_ml": _rounded(largest * mm3 / 1000) if known else None,
            "at_edge": self.at_edge,
        }


def as_data(
    case: str, summaries: Sequence[MeasuredLabel], *, channels: int, error: float
) -> dict[str, Any]:
    """The content of the JSON file.

    Args:
        case: name of the scan.
        channels: of the scan.
        error: largest relative error of median and percentiles.
    """
    return {
        "case": case,
        "channels": channels,
        "percentile_error": error,
        "labels": [one.plain() for one in summaries],
    }


def as_json(case: str, summaries: Sequence[MeasuredLabel], *, channels: int, error: float) -> str:
    """The JSON file; arguments as for `as_data`."""
    data = as_data(case, summaries, channels=channels, error=error)
    return json.dumps(data, indent=2, ensure_ascii=False)


def as_csv(case: str, summaries: Sequence[MeasuredLabel], *, channels: int) -> str:
    """The CSV file: one row for each label; names of values end with the channel if there are several."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = ("mean", "std", "min", *_NAMES, "max")
    ends = [""] if channels == 1 else [f"_{channel}" for channel in range(channels)]
    table.writerow(
        ["case", "label", "value", "voxels", "volume_mm3", "volume_ml"]
        + [f"{name}{end}" for end in ends for name in names]
        + [f"centroid_{axis}_mm" for axis in "xyz"]
        + [f"centroid_{axis}" for axis in "zyx"]
        + [f"{axis}_{end}" for axis in "zyx" for end in ("start", "stop")]
        + ["parts", "largest_part_voxels", "largest_part_ml", "at_edge"]
    )
    for one in summaries:
        row = one.plain()
        values = row["values"] or [{}] * channels
        box = row["box_zyx"] or [[None, None]] * 3
        table.writerow(
            [case, row["name"], *(row[k] for k in ("value", "voxels", "volume_mm3", "volume_ml"))]
            + [channel.get(name) for channel in values for name in names]
            + [*(row["centroid_xyz_mm"] or [None] * 3), *(row["centroid_zyx"] or [None] * 3)]
            + [end for span in box for end in span]
            + [row[k] for k in ("parts", "largest_part_voxels", "largest_part_ml")]
            + [str(one.at_edge).lower()]
        )
    return text.getvalue()


def _rounded(value: float) -> float:
    """The value without digits that are only noise of its computation."""
    return float(f"{value:.10g}")


def _listed(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [_rounded(value) for value in values]
