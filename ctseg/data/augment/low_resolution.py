"""Low resolution: fewer voxels, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def low_resolution(x: torch.Tensor, share_zyx: Sequence[float]) -> torch.Tensor:
    """[C, Z, Y, X] on a coarser grid (nearest voxel) and linearly back on its own.

    Args:
        share_zyx: share of the voxels each axis keeps, over 0 to 1.
    """
    sizes = tuple(x.shape[1:])
    small = [max(1, round(n * share)) for n, share in zip(sizes, share_zyx, strict=True)]
    out = F.interpolate(x[None], small, mode="nearest-exact")[0]
    if small[2] != sizes[2]:  # the last axis first, while the others are small
        rows = out.reshape(1, 1, -1, small[2])
        rows = F.interpolate(rows, (rows.shape[2], sizes[2]), mode="bilinear", align_corners=False)
        out = rows.view(*out.shape[:3], sizes[2])
    return stretch(stretch(out, 2, sizes[1]), 1, sizes[0])


def stretch(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Linear interpolation along one axis; voxels are areas, edges repeat (`align_corners=False`)."""
    n = x.shape[axis]
    if n == size:
        return x
    position = ((torch.arange(size, device=x.device) + 0.5) * (n / size) - 0.5).clamp_(0, n - 1)
    low = position.floor()
    shape = [1, 1, 1, 1]
    shape[axis] = size
    share = (position - low).view(shape)
    index = low.long()
    one, two = x.index_select(axis, index), x.index_select(axis, (index + 1).clamp_(max=n - 1))
    return one.lerp_(two, share)
