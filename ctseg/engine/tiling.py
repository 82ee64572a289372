"""Where tiles lie and how they are blended. Pure arithmetic, no network."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput

Zyx = tuple[int, int, int]
Blend = Literal["gaussian", "constant"]


def starts(size: int, tile: int, overlap: float) -> list[int]:
    """First voxels of the tiles along one axis: evenly spread, the first and last flush with the ends.

    The steps are as large as `tile * (1 - overlap)` allows, as in nnU-Net: 110 voxels, tile 64, overlap 0.5
    give 0, 23, 46.
    """
    if size <= tile:
        return [0]
    step = max(tile * (1 - overlap), 1)
    count = math.ceil((size - tile) / step) + 1
    return [int(np.round(i * (size - tile) / (count - 1))) for i in range(count)]


def window(tile: int, blend: Blend) -> NDArray[np.float32]:
    """The weight of each voxel of a tile along one axis, 1 at most.

    `gaussian` is centred with sigma tile / 8, and never under 1e-3, so that no voxel has a vanishing weight in
    the product over three axes.
    """
    if blend == "constant":
        return np.ones(tile, np.float32)
    position = np.arange(tile) - (tile - 1) / 2
    weights = np.exp(-0.5 * (position / (tile / 8)) ** 2)
    out: NDArray[np.float32] = np.maximum(weights / weights.max(), 1e-3).astype(np.float32)
    return out


def total_weight(size: int, tile: int, overlap: float, blend: Blend) -> NDArray[np.float32]:
    """The sum of all tiles' windows along one axis. Tiles form a grid, so the sum over a volume is a product."""
    out = np.zeros(size, np.float64)
    for start in starts(size, tile, overlap):
        out[start : start + tile] += window(tile, blend)[: size - start]
    return out.astype(np.float32)


def padding(shape_zyx: Zyx, tile_zyx: Zyx) -> tuple[tuple[int, int], ...]:
    """What a scan smaller than a tile needs on either side, per axis."""
    out = []
    for size, tile in zip(shape_zyx, tile_zyx, strict=True):
        missing = max(tile - size, 0)
        out.append((missing // 2, missing - missing // 2))
    return tuple(out)


def pad(image_czyx: NDArray[np.float32], tile_zyx: Zyx) -> NDArray[np.float32]:
    """Pad up to a tile: by reflection where the axis is long enough for it, else by its edge."""
    _, z, y, x = image_czyx.shape
    before_after = padding((z, y, x), tile_zyx)
    for axis, (before, after) in enumerate(before_after, start=1):
        if before or after:
            widths = [(0, 0)] * 4
            widths[axis] = (before, after)
            if after < image_czyx.shape[axis]:
                image_czyx = np.pad(image_czyx, widths, mode="reflect")
            else:
                image_czyx = np.pad(image_czyx, widths, mode="edge")
    return image_czyx


def check(tile_zyx: Zyx, overlap: float) -> None:
    """Refuse settings that make no tiles."""
    if len(tile_zyx) != 3 or min(tile_zyx) < 1:
        raise BadInput(f"A tile needs three positive sizes (z, y, x), not {tuple(tile_zyx)}.")
    if not 0 <= overlap < 1:
        raise BadInput(f"The overlap is a share of a tile from 0 to under 1, not {overlap}.")


def fit_tile(
    tile_zyx: Zyx, stride_zyx: Zyx, minimum_zyx: Zyx = (1, 1, 1), fixed_zyx: Zyx | None = None
) -> Zyx:
    """The smallest tile at least as large as asked that the network accepts."""
    if fixed_zyx is not None:
        return fixed_zyx
    z, y, x = (
        math.ceil(max(t, m) / s) * s
        for t, s, m in zip(tile_zyx, stride_zyx, minimum_zyx, strict=True)
    )
    return z, y, x
