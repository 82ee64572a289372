"""Bounding boxes of each label in two maps, so that costly metrics look only there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctseg.machine import cores
from ctseg.metrics.overlap import label_mask
from ctseg.metrics.surface import box_around
from ctseg.specs import Task
from ctseg.volume.distinct_values import TABLE

Box = tuple[slice, slice, slice]
T = TypeVar("T")


def label_boxes(
    task: Task, predicted: NDArray[Any], reference: NDArray[Any], indices: Sequence[int]
) -> list[Box | None]:
    """The box around each label in both maps together, one voxel wider; None where neither map has the label.

    Args:
        predicted, reference: integer label values [Z, Y, X], or one map per label [C, Z, Y, X].
        indices: indices of the task's foreground labels.
    """
    maps = (predicted, reference)
    if all(m.ndim == 3 and m.dtype.kind in "uib" for m in maps):
        values = [v for i in indices for v in task.foreground[i].values]
        lowest = min(int(m.min()) for m in maps)
        # find_objects skips the value 0, which may be a label: pores, where the solid is the background
        if lowest >= 0 and 0 not in values and 0 < (highest := max(values, default=0)) < TABLE:
            return _boxes_of_values(task, maps, indices, highest)
    return [
        box_around(label_mask(task, predicted, i) | label_mask(task, reference, i)) for i in indices
    ]


def _boxes_of_values(
    task: Task, maps: Sequence[NDArray[Any]], indices: Sequence[int], highest: int
) -> list[Box | None]:
    from scipy.ndimage import find_objects

    def boxes(array: NDArray[Any]) -> list[Box | None]:
        integers = array.view(np.uint8) if array.dtype == bool else array
        return list(find_objects(integers, highest))

    by_value = in_threads(boxes, maps)
    shape = maps[0].shape
    out = []
    for index in indices:
        values = [v for v in task.foreground[index].values if v > 0]
        parts = [box for table in by_value for v in values if (box := table[v - 1]) is not None]
        out.append(_around(parts, shape) if parts else None)
    return out


def _around(boxes: Sequence[Box], shape: Sequence[int]) -> Box:
    z, y, x = (
        slice(
            max(min(box[axis].start for box in boxes) - 1, 0),
            min(max(box[axis].stop for box in boxes) + 1, shape[axis]),
        )
        for axis in range(3)
    )
    return z, y, x


def volume_of(box: Box | None) -> int:
    """Voxels in a box."""
    return 0 if box is None else int(np.prod([part.stop - part.start for part in box]))


def in_threads(call: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """The results of a call on each item, in order, on all processors: NumPy and SciPy release the interpreter lock."""
    workers = min(cores(), len(items))
    if workers < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, items))
