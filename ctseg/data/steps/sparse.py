"""Sparse labels resampled: what somebody drew is never lost to the unlabelled voxels around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.steps.base import Array, Record
from ctseg.data.steps.interpolate import nearest
from ctseg.data.steps.resample import Resampling
from ctseg.volume.geometry import Geometry

HALF = 0.5 - 1e-6
"""Share of labelled voxels from which a voxel counts as labelled; sums round."""


def resample_sparse(
    step: Resampling, label_czyx: Array, geometry: Geometry, record: Record, ignore: int
) -> Array:
    """A label map with unlabelled voxels after a step that resamples.

    A voxel is labelled where at least half of what it is interpolated from is labelled, and where it is the nearest
    one to the centre of a labelled voxel: every drawn slice, line or point is found again. Its value is the strongest
    of the labelled ones; unlabelled voxels have no part in it.

    Args:
        ignore: the value of voxels that nobody labelled.
    """
    drawn = label_czyx != ignore
    if drawn.all() or step.grid(geometry, record).agrees(geometry):
        return step.label(label_czyx, geometry, record)
    out = step.label(label_czyx, geometry, record, without=ignore)
    share = step.weight(drawn.astype(np.float32), geometry, record)
    to = _nearest_after(step, geometry, out.shape[1:])
    for label, own, values, part in zip(label_czyx, drawn, out, share, strict=True):
        owed = _reached(own, to, values.shape)
        values[(part < HALF) & ~owed] = ignore
        _fill_in(values, owed & (values == ignore), label, own, to)
    return out


def _nearest_after(
    step: Resampling, geometry: Geometry, shape_zyx: Any
) -> tuple[NDArray[np.int64], ...]:
    """For each voxel along z, y, x the nearest one after the step."""
    return tuple(
        np.clip(nearest(at), 0, size - 1).astype(np.int64)
        for at, size in zip(step.back_positions(geometry), shape_zyx, strict=True)
    )


def _reached(drawn_zyx: Array, to: tuple[NDArray[np.int64], ...], shape_zyx: Any) -> Array:
    """Voxels after the step that are the nearest to a labelled one before it."""
    reached = drawn_zyx
    for axis, (at, size) in enumerate(zip(to, shape_zyx, strict=True)):
        found, first = np.unique(at, return_index=True)  # positions ascend
        shape = list(reached.shape)
        shape[axis] = size
        after = np.zeros(shape, bool)
        index: list[Any] = [slice(None)] * 3
        index[axis] = found
        after[tuple(index)] = np.logical_or.reduceat(reached, first, axis=axis)
        reached = after
    return reached


def _fill_in(
    out: Array, missing: Array, label: Array, drawn: Array, to: tuple[NDArray[np.int64], ...]
) -> None:
    """Give voxels that no labelled one is interpolated into the most frequent value next to them, ties the smaller."""
    if not missing.any():
        return
    at_z, at_y, at_x = to
    keys, values = [], []
    slices = np.asarray(missing.any((1, 2)))
    for z in np.flatnonzero(slices[at_z]):
        y, x = np.nonzero(drawn[z] & missing[at_z[z]][np.ix_(at_y, at_x)])
        keys.append(np.ravel_multi_index((np.full(len(y), at_z[z]), at_y[y], at_x[x]), out.shape))
        values.append(label[z, y, x])
    pairs = np.stack([np.concatenate(keys), np.concatenate(values).astype(np.int64)])
    pairs, counts = np.unique(pairs, axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    voxels, first = np.unique(pairs[0][order], return_index=True)
    out.reshape(-1)[voxels] = pairs[1][order][first]
