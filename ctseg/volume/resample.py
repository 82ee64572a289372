"""Resampling along the axes of a grid with the same extent: the outer faces of both grids coincide.

The new grid has voxel centres at (i + 0.5) * n_in / n_out - 0.5 of the old one, as in
`torch.nn.functional.interpolate(align_corners=False)` and nnU-Net's `resize`. Edge values continue beyond the edge.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.volume.geometry import Geometry


def resampled_geometry(geometry: Geometry, shape_zyx: tuple[int, int, int]) -> Geometry:
    """The grid of the same extent with another number of voxels."""
    ratio_zyx = np.asarray(geometry.shape_zyx) / np.asarray(shape_zyx)
    ratio_xyz = ratio_zyx[::-1]
    spacing = np.asarray(geometry.spacing_xyz) * ratio_xyz
    first_index = 0.5 * ratio_xyz - 0.5  # centre of the first new voxel, in old voxels
    origin = geometry.position(first_index)
    return replace(
        geometry, shape_zyx=shape_zyx, spacing_xyz=tuple(spacing), origin_xyz=tuple(origin)
    )


def resample(
    x_czyx: torch.Tensor, shape_zyx: tuple[int, int, int], orders_zyx: tuple[int, int, int]
) -> torch.Tensor:
    """Resample [C, Z, Y, X] to another shape, axis by axis.

    Args:
        orders_zyx: per axis 0 (nearest), 1 (linear) or 3 (cubic convolution, Keys 1981, a = -0.5).

    Returns:
        float32 tensor [C, *shape_zyx].
    """
    out = x_czyx.float()
    # the axis that shrinks most goes first, so that the others process less data
    axes = sorted(range(3), key=lambda a: shape_zyx[a] / out.shape[a + 1])
    for axis in axes:
        out = resample_axis(out, axis + 1, shape_zyx[axis], orders_zyx[axis])
    return out


def resample_axis(
    x: torch.Tensor, axis: int, n_out: int, order: int, start: int = 0, stop: int | None = None
) -> torch.Tensor:
    """Resample one axis to `n_out` positions, of which only start..stop are computed."""
    n_in = x.shape[axis]
    stop = n_out if stop is None else stop
    if n_in == n_out:
        return x.narrow(axis, start, stop - start)
    return resample_at(x, axis, centres(n_in, n_out)[start:stop], order)


def resample_at(
    x: torch.Tensor, axis: int, positions: NDArray[np.float64], order: int
) -> torch.Tensor:
    """The values along one axis at the given positions, in voxels of that axis; the edge value continues beyond it."""
    indices, weights = taps_at(positions, x.shape[axis], order)
    indices, weights = indices.to(x.device), weights.to(x.device, x.dtype)
    shape = [1] * x.ndim
    shape[axis] = len(positions)
    out = x.index_select(axis, indices[:, 0]).mul_(weights[:, 0].view(shape))
    for tap in range(1, indices.shape[1]):
        out.addcmul_(x.index_select(axis, indices[:, tap]), weights[:, tap].view(shape))
    return out


def centres(n_in: int, n_out: int) -> NDArray[np.float64]:
    """Positions of the centres of `n_out` voxels among `n_in` voxels of the same extent.

    The order of operations is that of nnU-Net and SciPy, so that positions half-way between voxels round alike.
    """
    out: NDArray[np.float64] = (np.arange(n_out, dtype=np.float64) + 0.5) * (n_in / n_out) - 0.5
    return out


def taps(n_in: int, n_out: int, order: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The old samples that contribute to each new one: indices [n_out, K] and weights [n_out, K]."""
    return taps_at(centres(n_in, n_out), n_in, order)


def taps_at(
    position: NDArray[np.float64], n_in: int, order: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples of `n_in` that contribute to the value at each position: indices [N, K] and weights [N, K]."""
    indices: NDArray[np.float64]
    weights: NDArray[np.float64]
    if order == 0:
        nearest = np.floor(position + 0.5)  # half-way positions round to the later sample
        indices, weights = nearest[:, None], np.ones((len(position), 1))
    else:
        base = np.floor(position)
        offsets = np.arange(0, 2) if order == 1 else np.arange(-1, 3)
        indices = base[:, None] + offsets
        distance = np.abs(position[:, None] - indices)
        weights = 1 - distance if order == 1 else _keys(distance)
    clamped = np.clip(indices, 0, n_in - 1).astype(np.int64)
    return torch.from_numpy(clamped), torch.from_numpy(weights)


def _keys(
    t: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Keys' cubic convolution kernel with a = -0.5 at distances 0..2 (IEEE TASSP 29, 1981, eq. 15)."""
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))
