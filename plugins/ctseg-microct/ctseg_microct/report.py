"""Files of the results: JSON, CSV tables and plots, lengths in one unit that suits the voxels."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctseg.files import write_text
from ctseg_microct.measure import Results
from ctseg_microct.phases import Phases

UNITS = {"mm": 1.0, "um": 1e3, "nm": 1e6, "voxel": 1.0}
"""How many of a unit are a millimetre, which stands for a voxel where the voxel size is unknown."""
_LENGTHS = {
    "edge", "representative_edge", "length", "distance", "mean_chord", "mean", "deviation", "median", "largest",
    "diameter", "centre_x", "centre_y", "centre_z", "axis_long", "axis_middle", "axis_short",
}  # fmt: skip
_POWERS = {"volume": 3, "surface": 2, "contact": 2, "specific_surface": -1}
_SHARES = {"windows": {"mean", "deviation"}}
"""Names that are no lengths within a topic."""


def unit_of(spacing_mm: float) -> str:
    """nm below 0.5 um, um below 0.1 mm, else mm."""
    return "nm" if spacing_mm < 5e-4 else "um" if spacing_mm < 0.1 else "mm"


def convert(value: Any, factor: float, name: str = "", topic: str = "") -> Any:
    """Results of a label with lengths, areas and volumes multiplied into another unit, by their names."""
    if isinstance(value, dict):
        topic = topic or (name if name in _SHARES else "")
        if name == "contact":
            return {key: convert(inner, factor, "contact", topic) for key, inner in value.items()}
        return {key: convert(inner, factor, key, topic) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [convert(inner, factor, name, topic) for inner in value]
    power = _POWERS.get(name, 1 if name in _LENGTHS else 0)
    if value is None or power == 0 or name in _SHARES.get(topic, ()):
        return value
    return value * factor**power


def write_results(
    phases: Phases,
    results: Results,
    folder: Path,
    *,
    calibrated: bool = True,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `measure.json`, the tables and the plots; returns what the JSON file holds.

    Args:
        calibrated: whether the voxel size is known; without it lengths are in voxels.
        notes: what is odd about the file.
    """
    unit = unit_of(min(phases.spacing_zyx)) if calibrated else "voxel"
    factor = UNITS[unit]
    labels = {name: convert(row, factor) for name, row in results.phases.items()}
    summary = {
        "unit": unit,
        "shape_zyx": list(phases.shape_zyx),
        "spacing_zyx": [s * factor for s in phases.spacing_zyx],
        "notes": list(notes),
        "labels": labels,
    }
    if results.objects is not None:
        summary["objects"] = _object_summary(results.objects, factor)
    write_text(folder / "measure.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    for name, rows in _tables(labels, unit).items():
        write_table(folder / f"{name}.csv", rows)
    if results.objects is not None:
        columns = {key: convert(np.asarray(v), factor, key) for key, v in results.objects.items()}
        named = [_with_unit(key, unit) for key in columns]
        write_table(folder / "objects.csv", [named, *zip(*columns.values(), strict=True)])
    return summary


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, numbers with six digits; NaN becomes empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    if not isinstance(value, (float, np.floating)):
        return value
    return "" if np.isnan(value) else f"{value:.6g}"


def _with_unit(name: str, unit: str) -> str:
    power = _POWERS.get(name, 1 if name in _LENGTHS else 0)
    return {0: name, 1: f"{name}_{unit}", -1: f"{name}_per_{unit}"}.get(
        power, f"{name}_{unit}{power}"
    )


def _object_summary(columns: dict[str, Any], factor: float) -> dict[str, Any]:
    out = {}
    for name in dict.fromkeys(columns["label"]):
        own = columns["label"] == name
        size = columns["diameter"][own] * factor
        roundness = columns["sphericity"][own]
        roundness = roundness[np.isfinite(roundness)]
        low, middle, high = np.percentile(size, (10, 50, 90))
        out[str(name)] = {
            "count": int(own.sum()),
            "cut_by_edge": int(columns["cut_by_edge"][own].sum()),
            "mean_volume": float(columns["volume"][own].mean() * factor**3),
            "diameter_d10": float(low),
            "diameter_d50": float(middle),
            "diameter_d90": float(high),
            "mean_sphericity": float(roundness.mean()) if len(roundness) else None,
        }
    return out


def _tables(labels: dict[str, Any], unit: str) -> dict[str, list[list[Any]]]:
    out: dict[str, list[list[Any]]] = {}

    def add(table: str, head: list[str], rows: Iterable[list[Any]]) -> None:
        out.setdefault(table, [head]).extend(rows)

    for name, row in labels.items():
        if found := row.get("fractions"):
            keys = [key for key in found if key != "contact"]
            add(
                "fractions",
                ["label", *(_with_unit(k, unit) for k in keys)],
                [[name, *(found[k] for k in keys)]],
            )
        if found := row.get("windows"):
            head = ["label", f"edge_{unit}", "windows", "mean", "deviation"]
            add("windows", head, [[name, *one.values()] for one in found["rows"]])
        if found := row.get("correlation"):
            head = ["label", "axis", f"distance_{unit}", "s2", "c2", "lineal_path"]
            add("correlation", head, [
                [name, "all", d, s, c, ""]
                for d, s, c in zip(found["distance"], found["s2"], found["c2"], strict=True)
            ])  # fmt: skip
            for axis in "xyz":
                along = found[f"along_{axis}"]
                values = zip(along["distance"], along["s2"], along["lineal_path"], strict=True)
                add("correlation", head, [[name, axis, d, s, "", p] for d, s, p in values])
        if found := row.get("thickness"):
            head = ["label", f"diameter_{unit}", "voxels", "share"]
            add("thickness", head, [[name, *one.values()] for one in found["distribution"]])
        if found := row.get("connectivity"):
            shares = found["percolating_share"]
            head = ["label", "parts", "largest_share", *(f"percolating_{a}" for a in "xyz")]
            add(
                "connectivity",
                head,
                [[name, found["parts"], found["largest_share"], *(shares[a] for a in "xyz")]],
            )
        if (found := row.get("orientation")) and found["tensor"]:
            head = ["label", "voxels", "xx", "xy", "xz", "yy", "yz", "zz"]
            t = found["tensor"]
            add("orientation", head, [[name, found["voxels"], *t[0], *t[1][1:], t[2][2]]])
    return out
