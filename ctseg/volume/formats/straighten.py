"""Resamples sheared scans onto a straight grid, slice by slice: slices and rows are kept and shifted into place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.volume.formats.affine import Straighten, StraightGrid
from ctseg.volume.formats.raw import UnpackTarget
from ctseg.volume.formats.source import ScanHeader, Source


@dataclass(frozen=True)
class _Resampling:
    """How stored slices are resampled onto the straight grid.

    Attributes:
        grid: the grid, and the position of stored voxels on it.
        nearest: whether to take the nearest voxel instead of interpolating linearly.
        outside: value of each channel outside the stored voxels.
    """

    grid: StraightGrid
    nearest: bool
    outside: tuple[float, ...]


def straightened(source: Source, grid: StraightGrid, how: Straighten) -> Source:
    """The source itself if its voxels lie on the grid, else one that resamples them.

    Outside the stored voxels an image has the lowest value of its first slice and a label map 0.

    Args:
        source: source of the voxels as they are stored, on any grid.
        grid: the grid, and the position of stored voxels on it.
        how: `nearest` for label maps.
    """
    if grid.skew is None:
        return source
    if how != "nearest" and source.dtype.kind not in "iuf":
        raise BadInput(f"{source.path} holds {source.dtype} voxels, which cannot be interpolated.")
    outside = (0.0,) * source.channels
    if how != "nearest":
        first = source.read((0, 1)).reshape(source.channels, -1)
        outside = tuple(float(v) for v in np.nan_to_num(first).min(1))
    note = "straightened: the axes of its grid are sheared"
    source.metadata = {**source.metadata, "notes": [*source.metadata.get("notes", ()), note]}
    return _resampled(source, _Resampling(grid, how == "nearest", outside))


def _resampled(source: Source, resampling: _Resampling) -> Source:
    geometry = resampling.grid.geometry

    def load(start: int, stop: int) -> NDArray[Any]:
        stored = source.read((start, stop))
        out = np.empty((source.channels, stop - start, *geometry.shape_zyx[1:]), source.dtype)
        for channel in range(source.channels):
            for index in range(stop - start):
                plane = _slice(
                    stored[channel, index], start + index, resampling, resampling.outside[channel]
                )
                out[channel, index] = np.rint(plane) if source.dtype.kind in "iu" else plane
        return out

    def unpack(target: UnpackTarget) -> Source:
        assert source.unpack is not None
        return _resampled(source.unpack(target), resampling)

    return Source(
        source.path,
        ScanHeader(geometry, source.dtype, source.channels, source.by_region, source.metadata),
        load,
        unpack=None if source.unpack is None else unpack,
        close=source.close,
    )


def _slice(
    plane: NDArray[Any], k: int, resampling: _Resampling, outside: float
) -> NDArray[np.float64]:
    """Slice k of the straight grid.

    The voxel (i, j, k) lies at column i + s01 j + s02 k and row j + s12 k. So the row j' of the grid is read at the
    stored row j = j' - s12 k, and its column i' at i = i' - s01 j - s02 k, bilinearly in the stored slice.
    """
    skew = resampling.grid.skew
    assert skew is not None
    _, height, width = resampling.grid.geometry.shape_zyx
    first_x, first_y = resampling.grid.start_xy
    j = np.arange(height) + first_y - skew[1, 2] * k
    if resampling.nearest:
        j = np.rint(j)
    i = np.arange(width)[None, :] + first_x - skew[0, 1] * j[:, None] - skew[0, 2] * k
    padded = np.pad(plane.astype(np.float64), 1, constant_values=outside)
    rows, share_y = _between(j, plane.shape[0], nearest=resampling.nearest)
    columns, share_x = _between(i, plane.shape[1], nearest=resampling.nearest)
    out = np.zeros((height, width))
    for step_y, weight_y in ((0, 1 - share_y), (1, share_y)):
        for step_x, weight_x in ((0, 1 - share_x), (1, share_x)):
            out += weight_y[:, None] * weight_x * padded[rows[:, None] + step_y, columns + step_x]
    return out


def _between(
    at: NDArray[np.float64], size: int, *, nearest: bool
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The voxel below each position, counted in a slice with a margin of one, and the weight of the voxel above."""
    at = np.clip(np.rint(at) if nearest else np.round(at, 9), -1.0, float(size))
    below = np.minimum(np.floor(at), size - 1.0)
    return (below + 1).astype(np.intp), at - below
