"""What a plan must know of a scan too large to be loaded: its labels' volumes, and intensities in boxes around them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.lazy import ImageReader, OpenFiles, TargetReader
from ctseg.data.lazy_survey import one_grid, slabs_of, zeros_are_background
from ctseg.data.load import as_label, stored_task
from ctseg.data.patch_centres import CentreCollector
from ctseg.specs import Case, Task
from ctseg.task import check_values
from ctseg.volume.distinct_values import distinct_values, slabs
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_ref

LARGE_VOXELS = 2**30
"""Scans of more voxels are looked at in parts where their files can be read by region."""
BOXES, BOX = 64, 48
"""Intensities are taken in so many boxes of this side around voxels of labels, drawn with a fixed seed."""


@dataclass(frozen=True)
class LargeCaseSample:
    """What was seen.

    Attributes:
        geometry: the grid.
        voxels: of each foreground label, in the order of the task.
        values: intensities [C, N] of foreground voxels.
    """

    geometry: Geometry
    voxels: tuple[int, ...]
    values: NDArray[Any]


def is_large(case: Case) -> bool:
    """Whether a scan is looked at in parts: it is large, and its files can be read by region."""
    refs = [*case.images, *(ref for ref in (case.label, case.mask) if ref is not None)]
    for ref in refs:
        source = open_ref(ref)
        fits = not source.by_region or math.prod(source.geometry.shape_zyx) <= LARGE_VOXELS
        source.close()
        if fits:
            return False
    return True


def sample_large_case(case: Case, task: Task, samples: int) -> LargeCaseSample:
    """Pass over the label once, then read some boxes of the scan.

    Args:
        samples: intensities wanted, at most.

    Raises:
        BadInput: values beyond the task's, or NaN in the boxes.
        GeometryMismatch: files on different grids.
    """
    geometry = one_grid(case)
    task = stored_task(case, task)
    target, image = TargetReader(case, task), ImageReader(case, ())
    voxels = np.zeros(len(task.foreground), np.int64)
    collector = CentreCollector(task, BOXES)
    blank = zeros_are_background(task)
    try:
        for start, label in slabs_of(target.label):
            for part in slabs(label.shape[1:]):
                piece = label[:, part]
                if blank and not piece.any():
                    continue
                own = as_label(piece, task, where=target.where)
                check_values(task, distinct_values(own), where=target.where)
                made = target.made(piece, None)
                collector.add(made, start + part.start)
                voxels += _counts(task, made)
        found = collector.result()
        around = found[found[:, 0] > 0][:, 1:]
        if len(around) > BOXES:
            rng = np.random.default_rng(0)
            around = around[np.sort(rng.choice(len(around), BOXES, replace=False))]
        parts = [_values(image, target, centre, geometry, samples // BOXES) for centre in around]
    finally:
        target.close()
        image.close()
    empty = np.zeros((len(case.images), 0), np.float32)
    return LargeCaseSample(
        geometry, tuple(int(n) for n in voxels), np.concatenate(parts, 1) if parts else empty
    )


def _counts(task: Task, target_czyx: NDArray[Any]) -> NDArray[np.int64]:
    if task.kind == "classes":
        counted = np.bincount(target_czyx[target_czyx > 0], minlength=len(task.labels))
        return np.asarray(counted[1:], np.int64)
    return np.asarray((target_czyx == 1).sum((1, 2, 3)), np.int64)


def _values(
    image: ImageReader, target: TargetReader, centre: Any, geometry: Geometry, samples: int
) -> NDArray[Any]:
    """Intensities [C, n] of foreground voxels in a box around a voxel."""
    start = [max(int(c) - BOX // 2, 0) for c in centre]
    stop = [min(a + BOX, n) for a, n in zip(start, geometry.shape_zyx, strict=True)]
    inside = (target(start, stop) > 0).any(0)
    values = image(start, stop)[:, inside]
    every = max(1, values.shape[1] // max(samples, 1))
    return values[:, ::every]


def label_values(case: Case) -> list[int] | None:
    """The distinct values of a large label, found slab by slab; None where it is to be loaded as a whole."""
    if case.label is None or not is_large(case):
        return None
    files = OpenFiles([case.label])
    values: set[int] = set()
    for _, label in slabs_of(files):
        for part in slabs(label.shape[1:]):
            piece = label[:, part]
            values.update(distinct_values(piece) if piece.any() else (0,))
    files.close()
    return sorted(values)
