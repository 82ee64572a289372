"""Exact Euclidean distance maps, computed on the device of the tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage


def signed_distance(
    inside: torch.Tensor,
    known: torch.Tensor | None = None,
    *,
    spacing_zyx: Sequence[float] = (1.0, 1.0, 1.0),
) -> torch.Tensor:
    """The distance to a structure's surface [B, C, Z, Y, X], float32: positive outside, negative inside.

    Outside it is the distance to the nearest voxel of the structure; inside, the distance to the nearest voxel
    outside, less the smallest spacing, so that voxels at the surface have 0 (Kervadec et al. 2019). Maps without
    a surface, all inside or all outside, are 0 everywhere.

    Args:
        inside: bool [B, C, Z, Y, X].
        known: bool [B, Z, Y, X]; voxels where it is False are neither inside nor outside a structure.
        spacing_zyx: unit of the result: (1, 1, 1) for voxels, or the voxel size in mm.
    """
    outside = ~inside
    if known is not None:
        inside, outside = inside & known[:, None], outside & known[:, None]
    signed = torch.where(
        inside,
        -(distance_to(outside, spacing_zyx) - min(spacing_zyx)),
        distance_to(inside, spacing_zyx),
    )
    both = inside.flatten(2).any(2) & outside.flatten(2).any(2)
    return torch.where(both[:, :, None, None, None], signed, 0)


def distance_to(voxels: torch.Tensor, spacing_zyx: Sequence[float]) -> torch.Tensor:
    """The distance of every voxel to the nearest True one [..., Z, Y, X], float32; infinite without any."""
    if voxels.device.type == "cpu":
        maps = voxels.flatten(0, -4).numpy()
        out = [
            ndimage.distance_transform_edt(~one, sampling=tuple(spacing_zyx))
            if one.any()
            else np.full(one.shape, np.inf)
            for one in maps
        ]
        return torch.from_numpy(np.stack(out).astype(np.float32)).view(voxels.shape)
    return squared_distances(voxels, spacing_zyx).sqrt()


def squared_distances(voxels: torch.Tensor, spacing_zyx: Sequence[float]) -> torch.Tensor:
    """The squares of `distance_to` by lower envelopes, axis by axis; fast on devices that compute in parallel.

    The minimum separates by axes: min over (z, y, x) of dz^2 + dy^2 + dx^2 is taken along x, then y, then z.
    """
    squares = torch.where(voxels, 0.0, torch.inf)
    for axis, spacing in zip((-1, -2, -3), reversed(list(spacing_zyx)), strict=True):
        size = squares.shape[axis]
        best = squares.clone()
        for offset in range(1, size):
            cost = (offset * spacing) ** 2
            low, high = (
                squares.narrow(axis, 0, size - offset),
                squares.narrow(axis, offset, size - offset),
            )
            ahead, behind = (
                best.narrow(axis, offset, size - offset),
                best.narrow(axis, 0, size - offset),
            )
            torch.minimum(ahead, low + cost, out=ahead)
            torch.minimum(behind, high + cost, out=behind)
        squares = best
    return squares
