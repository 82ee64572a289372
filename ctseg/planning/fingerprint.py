"""The fingerprint of a data set: the statistics that a plan is based on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.large_scans import is_large, sample_large_case
from ctseg.data.load import load_extra, load_image, load_label
from ctseg.data.steps import Orient
from ctseg.data.steps.base import Box
from ctseg.data.stream import InMemory, OnDisk, Scan, intensity_ranges, modality_of
from ctseg.errors import BadInput
from ctseg.specs import Case, Task
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_ref
from ctseg.volume.volume import Volume

SAMPLES = 10_000
"""Foreground voxels drawn from each case for the intensity statistics."""


@dataclass(frozen=True)
class Fingerprint:
    """Statistics of the training cases.

    Attributes:
        shapes_zyx: voxels of each case, after turning the axes to LPS.
        spacings_zyx: spacing of each case in mm, likewise.
        foreground: percentiles 0.5, 50 and 99.5, mean and deviation of foreground voxels, per channel.
        volumes_ml: mean volume of each label over the cases.
        cases: number of cases.
        targets: mean and deviation of each channel of a regression's targets; empty for other tasks.
        intensities: per channel the smallest percentile 0.5 and the largest percentile 99.5 of a whole scan.
        modalities: as the files name them.
        ranges: smallest and largest value of each channel, case by case; without scans that are looked at in parts.
        boxes: where the labels of each case lie, likewise: first voxel and the one past the last along z, y, x. The
            whole scan where it is looked at in parts, None without labels; empty for a regression.
    """

    shapes_zyx: tuple[tuple[int, int, int], ...]
    spacings_zyx: tuple[tuple[float, float, float], ...]
    foreground: tuple[dict[str, float], ...]
    volumes_ml: dict[str, float]
    cases: int
    targets: tuple[dict[str, float], ...] = ()
    intensities: tuple[tuple[float, float], ...] = ()
    modalities: tuple[str, ...] = ()
    ranges: tuple[tuple[tuple[float, float], ...], ...] = ()
    boxes: tuple[Box | None, ...] = ()

    @property
    def median_spacing_zyx(self) -> tuple[float, float, float]:
        z, y, x = (float(v) for v in np.median(np.asarray(self.spacings_zyx), 0))
        return z, y, x

    def median_shape_at(self, spacing_zyx: Sequence[float]) -> tuple[int, int, int]:
        """The median shape of the cases at a given spacing."""
        extent = np.asarray(self.shapes_zyx) * np.asarray(self.spacings_zyx)
        z, y, x = (max(1, round(float(v))) for v in np.median(extent / np.asarray(spacing_zyx), 0))
        return z, y, x

    def to_dict(self) -> dict[str, Any]:
        out = dataclasses.asdict(self)
        out["median_spacing_zyx"] = self.median_spacing_zyx
        out["median_shape_zyx"] = self.median_shape_at(self.median_spacing_zyx)
        return out


def fingerprint(
    cases: Sequence[Case], task: Task, on_case: Callable[[str], None] | None = None
) -> Fingerprint:
    """Read and check every training case once.

    Raises:
        BadInput: a case cannot be trained on; the message names its file.
    """
    rng = np.random.default_rng(0)
    shapes, spacings, drawn, targets, ranges = [], [], [], [], []
    labels = () if task.kind == "regression" else task.foreground
    volumes: dict[str, list[float]] = {label.name: [] for label in labels}
    boxes: list[Box | None] = []
    look = _Look()
    for case in cases:
        if task.kind != "regression" and is_large(case):
            look.at_files(case)
            sample = sample_large_case(case, task, SAMPLES)
            z, y, x = _oriented(sample.geometry).shape_zyx
            boxes.append(((0, z), (0, y), (0, x)))
            shapes.append((z, y, x))
            spacings.append(_oriented(sample.geometry).spacing_zyx)
            for item, count in zip(labels, sample.voxels, strict=True):
                volumes[item.name].append(count * sample.geometry.voxel_volume_mm3 / 1000)
            if sample.values.size:
                drawn.append(sample.values)
            if on_case:
                on_case(case.id)
            continue
        image = load_image(case)
        ranges.append(tuple((float(c.min()), float(c.max())) for c in image.czyx))
        label = load_label(case, task, image)
        look.at(case, image)
        oriented = _oriented(image.geometry)
        shapes.append(oriented.shape_zyx)
        spacings.append(oriented.spacing_zyx)
        inside = np.zeros(image.geometry.shape_zyx, bool)
        if task.kind == "regression":
            inside = target_mask(case, task, label)
        for index, item in enumerate(labels):
            stored = label.array[index] if task.stacked else label.array
            inside_label = stored > 0 if task.stacked else np.isin(stored, item.values)
            if task.ignore is not None:
                inside_label &= stored != task.ignore
            inside |= inside_label
            ml = float(inside_label.sum()) * image.geometry.voxel_volume_mm3 / 1000
            volumes[item.name].append(ml)
        if task.kind != "regression":
            boxes.append(_box_of(Orient().image(inside[None], image.geometry, {})[0]))
        flat = np.flatnonzero(inside)
        if flat.size:
            chosen = rng.choice(flat, min(SAMPLES, flat.size), replace=False)
            drawn.append(image.czyx.reshape(image.czyx.shape[0], -1)[:, chosen])
            if task.kind == "regression":
                targets.append(label.czyx.reshape(len(label.czyx), -1)[:, chosen])
        if on_case:
            on_case(case.id)
    if not drawn:
        what = "target" if task.kind == "regression" else "foreground voxel"
        raise BadInput(f"No training case holds any {what}; there is nothing to learn.")
    return Fingerprint(
        tuple(shapes),
        tuple(spacings),
        tuple(_statistics(channel) for channel in np.concatenate(drawn, 1).astype(np.float64)),
        {name: float(np.mean(values)) for name, values in volumes.items()},
        len(cases),
        tuple(_statistics(c) for c in np.concatenate(targets, 1).astype(np.float64))
        if targets
        else (),
        look.intensities,
        tuple(sorted(look.modalities)),
        tuple(ranges),
        tuple(boxes),
    )


class _Look:
    """What the scans are like as a whole, case by case.

    Attributes:
        intensities: per channel the range of all cases so far.
        modalities: that their files name.
    """

    def __init__(self) -> None:
        self.intensities: tuple[tuple[float, float], ...] = ()
        self.modalities: set[str] = set()

    def at_files(self, case: Case) -> None:
        """A case that is read in parts."""
        scan = OnDisk(case.images)
        try:
            self._add(scan)
        finally:
            scan.close()

    def at(self, case: Case, image: Volume) -> None:
        """A case that is in memory."""
        names = [modality_of(image.metadata)]
        for ref in case.images[1:]:
            source = open_ref(ref)
            names.append(modality_of(source.metadata))
            source.close()
        self._add(InMemory(image.czyx, image.geometry, modalities=tuple(filter(None, names))))

    def _add(self, scan: Scan) -> None:
        self.modalities |= set(scan.modalities)
        found = intensity_ranges(scan)
        pairs = zip(self.intensities or found, found, strict=True)
        self.intensities = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in pairs)


def target_mask(case: Case, task: Task, target: Volume) -> NDArray[np.bool_]:
    """Where the target of a regression counts [Z, Y, X]: no NaN, no ignore value, and inside the case's mask."""
    inside: NDArray[np.bool_] = np.isfinite(target.czyx).all(0)
    if task.ignore is not None:
        inside &= (target.czyx != task.ignore).all(0)
    mask = load_extra(case, case.mask, target)
    return inside if mask is None else inside & (mask[0] > 0)


def _box_of(inside_zyx: NDArray[np.bool_]) -> Box | None:
    """The smallest box that holds all true voxels; None if there are none."""
    spans = []
    for axis in range(3):
        hits = np.flatnonzero(inside_zyx.any(tuple(a for a in range(3) if a != axis)))
        if not len(hits):
            return None
        spans.append((int(hits[0]), int(hits[-1]) + 1))
    return spans[0], spans[1], spans[2]


def _statistics(values: Any) -> dict[str, float]:
    low, median, high = (float(v) for v in np.percentile(values, (0.5, 50, 99.5)))
    return {
        "percentile_00_5": low,
        "median": median,
        "percentile_99_5": high,
        "mean": float(values.mean()),
        "std": float(values.std()),
    }


def _oriented(geometry: Geometry) -> Geometry:
    return Orient().grid(geometry, {})
