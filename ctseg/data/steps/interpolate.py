"""Values and labels of an array at other positions along its axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

from ctseg.volume.distinct_values import distinct_values
from ctseg.volume.resample import resample_at

SPLINE_PAD = 12
"""Voxels by which SciPy continues an axis before it finds spline coefficients, for mode 'nearest'."""


LEAST_SHARE = 1e-6
"""A smaller share of a value is a rounding error."""


def is_identity(positions: Sequence[NDArray[np.float64]], shape_zyx: Sequence[int]) -> bool:
    """Whether the positions are the voxel centres themselves."""
    return all(
        len(at) == size and bool((at == np.arange(size)).all())
        for at, size in zip(positions, shape_zyx, strict=True)
    )


def nearest(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The voxel centres next to the positions; half-way ones go to the later voxel, as in SciPy."""
    out: NDArray[np.float64] = np.floor(positions + 0.5)
    return out


def values_at(
    array_czyx: NDArray[Any],
    positions: Sequence[NDArray[np.float64]],
    orders_zyx: Sequence[int],
    *,
    spline: bool = False,
) -> NDArray[np.float32]:
    """Interpolate along each axis in turn.

    Args:
        positions: in voxels, along z, y, x; the edge repeats beyond the array.
        orders_zyx: 0, 1 or 3 per axis.
        spline: whether order 3 is an interpolating B-spline rather than Keys' cubic convolution.
    """
    array = np.ascontiguousarray(array_czyx, np.float32)
    if (
        min(array.strides) < 0
    ):  # NumPy takes a flipped axis of one voxel for contiguous, torch does not
        array = array.copy()
    out = torch.from_numpy(array)
    # the axis that shrinks most goes first, so that the others have less to do
    axes = sorted(range(3), key=lambda a: len(positions[a]) / array_czyx.shape[a + 1])
    for axis in axes:
        at, size = positions[axis], out.shape[axis + 1]
        if len(at) == size and bool((at == np.arange(size)).all()):
            continue
        if spline and orders_zyx[axis] == 3:
            out = _spline_at(out, axis + 1, at)
        else:
            out = resample_at(out, axis + 1, at, orders_zyx[axis])
    result: NDArray[np.float32] = out.numpy()
    return result


def _spline_at(x: torch.Tensor, axis: int, positions: NDArray[np.float64]) -> torch.Tensor:
    """Interpolating cubic B-spline along one axis, as `scipy.ndimage.zoom(order=3, mode='nearest')`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (SPLINE_PAD, SPLINE_PAD)
    padded = np.pad(x.numpy(), widths, mode="edge")
    found = scipy.ndimage.spline_filter1d(padded, 3, axis, output=np.float32, mode="nearest")
    coefficients = torch.from_numpy(found)
    reach = SPLINE_PAD - 2
    at = np.clip(positions, -reach, x.shape[axis] - 1 + reach) + SPLINE_PAD
    base = np.floor(at)
    shape = [1] * x.ndim
    shape[axis] = len(at)
    out = torch.zeros((*x.shape[:axis], len(at), *x.shape[axis + 1 :]))
    for offset in (-1, 0, 1, 2):
        index = torch.from_numpy((base + offset).astype(np.int64))
        weight = torch.from_numpy(b_spline(np.abs(at - base - offset)).astype(np.float32))
        out.addcmul_(coefficients.index_select(axis, index), weight.view(shape))
    return out


def b_spline(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic B-spline at distances 0..2 (Unser, IEEE Signal Processing Magazine 16, 1999, eq. 7)."""
    near = 2 / 3 - t**2 + t**3 / 2
    far = np.maximum(2 - t, 0) ** 3 / 6
    return np.where(t < 1, near, far)


def labels_at(
    label_czyx: NDArray[Any],
    positions: Sequence[NDArray[np.float64]],
    orders_zyx: Sequence[int],
    *,
    without: int | None = None,
) -> NDArray[Any]:
    """Each value as a map of its own, interpolated at most linearly; the strongest wins, ties the smaller value.

    Each map is worked on within the box of its value only, so that many small labels cost little.

    Args:
        without: a value that stands only where no other one contributes.
    """
    shape = tuple(len(at) for at in positions)
    # torch lacks unsigned types
    out = np.full((label_czyx.shape[0], *shape), without or 0, label_czyx.dtype)
    best = torch.full(out.shape, -1.0 if without is None else LEAST_SHARE)
    positions = [
        np.clip(at, 0, n - 1) for at, n in zip(positions, label_czyx.shape[1:], strict=True)
    ]
    for channel, label in enumerate(label_czyx):
        for value, box in _boxes(label):
            if value == without:
                continue
            reach = [_reach(at, part) for at, part in zip(positions, box, strict=True)]
            if any(r.stop <= r.start for r in reach):
                continue
            wide = [
                slice(max(b.start - 2, 0), min(b.stop + 2, n))
                for b, n in zip(box, label.shape, strict=True)
            ]
            share = torch.from_numpy((label[tuple(wide)] == value).astype(np.float32))[None]
            for axis in range(3):
                at = positions[axis][reach[axis]] - wide[axis].start
                share = resample_at(share, axis + 1, at, orders_zyx[axis])
            z, y, x = reach
            strongest = best[channel, z, y, x]  # a view
            better = share[0] > strongest
            out[channel, z, y, x][better.numpy()] = value
            torch.maximum(strongest, share[0], out=strongest)
    return out


def _boxes(label_zyx: NDArray[Any]) -> list[tuple[int, tuple[slice, ...]]]:
    """Each value of a label map with the box that holds it, in ascending order."""
    values = distinct_values(label_zyx)
    whole = tuple(slice(0, n) for n in label_zyx.shape)
    if values[0] < 0 or values[-1] > 2**15:
        return [(value, whole) for value in values]
    found = scipy.ndimage.find_objects(label_zyx.astype(np.int32, copy=False))
    return [(v, found[v - 1] or whole) if v else (v, whole) for v in values]


def _reach(positions: NDArray[np.float64], part: slice) -> slice:
    """The positions, which ascend, whose value a part of the axis can touch; beyond the ends the edge counts."""
    low = int(np.searchsorted(positions, part.start - 1, "left"))
    high = int(np.searchsorted(positions, part.stop, "right"))
    return slice(low, high)
