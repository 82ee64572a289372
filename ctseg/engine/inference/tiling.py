"""Tile positions, padding and blending weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import Constraints

Zyx = tuple[int, int, int]
Blend = Literal["gaussian", "nnunet", "constant", "monai_gaussian", "monai_constant"]
MONAI = "monai_"
"""Beginning of the blends whose tiles lie where MONAI's SlidingWindowInferer puts them."""
Padding = Literal["reflect", "zeros"]
Overlap = float | tuple[float, float, float]
"""Fraction of a tile that overlaps with its neighbour: one for all axes, or one for each (z, y, x)."""


def starts(
    size: int, tile: int, overlap: float, context: int = 0, blend: Blend = "gaussian"
) -> list[int]:
    """First voxels of the tiles along one axis: evenly spread, the first and last flush with the ends.

    Steps are as large as `tile * (1 - overlap)` allows, as in nnU-Net: 110 voxels with tile 64 and overlap 0.5
    give 0, 23, 46. Neighbours overlap by at least `2 * context` voxels.

    The blends of MONAI keep the step instead, and move only the last tile, to the end: 0, 32, 46.
    """
    if size <= tile:
        return [0]
    step = max(min(tile * (1 - overlap), tile - 2 * context), 1)
    if blend.startswith(MONAI):
        return [*range(0, size - tile, int(step)), size - tile]
    count = math.ceil((size - tile) / step) + 1
    return [int(np.round(i * (size - tile) / (count - 1))) for i in range(count)]


def window(tile: int, blend: Blend) -> NDArray[np.float32]:
    """The weight of each voxel of a tile along one axis, more than 0 and at most 1.

    `gaussian` is centred with sigma tile / 8, and at least 1e-3, so that the product over three axes never vanishes.
    `nnunet` is centred on the voxel tile // 2 without a lower limit; nnU-Net computes it by filtering a delta there
    (Isensee et al., Nature Methods 18, 2021). `monai_gaussian` is centred as `gaussian` and has its lower limit in the
    product (see `least_weight`).
    """
    if blend in ("constant", "monai_constant"):
        return np.ones(tile, np.float32)
    centre = tile // 2 if blend == "nnunet" else (tile - 1) / 2
    weights = np.exp(-0.5 * ((np.arange(tile) - centre) / (tile / 8)) ** 2)
    if blend != "monai_gaussian":
        weights = np.maximum(weights / weights.max(), 0.0 if blend == "nnunet" else 1e-3)
    out: NDArray[np.float32] = weights.astype(np.float32)
    return out


def least_weight(tile_zyx: Zyx, blend: Blend) -> float:
    """The lower limit of the product of a tile's weights over the axes; 0 where there is none.

    MONAI's `compute_importance_map` sets one of 1e-3, so its weights are no product.
    """
    if blend != "monai_gaussian":
        return 0.0
    return max(1e-3, math.prod(float(window(tile, blend).min()) for tile in tile_zyx))


def windows(
    size: int, tile: int, overlap: float, blend: Blend, context: int = 0
) -> list[NDArray[np.float32]]:
    """The weights of each tile along one axis.

    Within `context` voxels of a tile's end the network lacks neighbours that the scan has. Another tile has them, so
    the weights there are 0, except at the ends of the scan.
    """
    out = []
    for start in starts(size, tile, overlap, context, blend):
        weights = window(tile, blend).copy()
        if start > 0:
            weights[:context] = 0
        if start + tile < size:
            weights[tile - context :] = 0
        out.append(weights)
    return out


def total_weight(
    size: int, tile: int, overlap: float, blend: Blend, context: int = 0
) -> NDArray[np.float64]:
    """The sum of all tiles' weights along one axis; since tiles form a grid, the sum over a volume is a product.

    Raises:
        ValueError: no tile gives a voxel a weight, so that its logits would be 0 / 0.
    """
    out = np.zeros(size, np.float64)
    every = windows(size, tile, overlap, blend, context)
    for start, weights in zip(starts(size, tile, overlap, context, blend), every, strict=True):
        out[start : start + tile] += weights[: size - start]
    if not (out > 0).all():
        raise ValueError(
            f"The blend {blend} gives no weight to {int((out <= 0).sum())} voxels of an axis."
        )
    return out


def padding(shape_zyx: Zyx, tile_zyx: Zyx) -> tuple[tuple[int, int], ...]:
    """Voxels of padding before and after each axis of a scan smaller than a tile."""
    out = []
    for size, tile in zip(shape_zyx, tile_zyx, strict=True):
        missing = max(tile - size, 0)
        out.append((missing // 2, missing - missing // 2))
    return tuple(out)


def pad(
    image_czyx: NDArray[np.float32],
    tile_zyx: Zyx,
    *,
    repeat_slices: bool = False,
    mode: Padding = "reflect",
) -> NDArray[np.float32]:
    """Pad a scan to the size of a tile.

    Args:
        repeat_slices: repeat the first and the last slice, as slice-wise networks do at the ends of a scan.
        mode: `reflect` pads by reflection, or repeats the edge of an axis too short for it; `zeros` pads with zeros.
    """
    _, z, y, x = image_czyx.shape
    before_after = padding((z, y, x), tile_zyx)
    for axis, (before, after) in enumerate(before_after, start=1):
        if before or after:
            widths = [(0, 0)] * 4
            widths[axis] = (before, after)
            repeated = repeat_slices and axis == 1
            if mode == "zeros" and not repeated:
                image_czyx = np.pad(image_czyx, widths)
            elif after < image_czyx.shape[axis] and not repeated:
                image_czyx = np.pad(image_czyx, widths, mode="reflect")
            else:
                image_czyx = np.pad(image_czyx, widths, mode="edge")
    return image_czyx


def overlap_zyx(overlap: Overlap) -> tuple[float, float, float]:
    """The overlap along each axis.

    Example:
        >>> overlap_zyx(0.5)
        (0.5, 0.5, 0.5)
    """
    z, y, x = overlap if isinstance(overlap, Sequence) else (overlap,) * 3
    return z, y, x


def check(tile_zyx: Zyx, overlap: Overlap, context_slices: int = 0) -> None:
    """Reject an invalid tile size or overlap."""
    if len(tile_zyx) != 3 or min(tile_zyx) < 1:
        raise BadInput(f"A tile needs three positive sizes (z, y, x), not {tuple(tile_zyx)}.")
    fractions = overlap if isinstance(overlap, Sequence) else (overlap,)
    if len(fractions) not in (1, 3) or not all(0 <= fraction < 1 for fraction in fractions):
        raise BadInput(
            f"The overlap is a fraction of a tile from 0 to under 1, or three of them (z, y, x), not {overlap}."
        )
    if tile_zyx[0] <= 2 * context_slices:
        raise BadInput(
            f"A tile of {tile_zyx[0]} slices is too thin: the network looks at {context_slices} slices on "
            "either side.",
            hint=f"Use {2 * context_slices + 1} slices or more.",
        )


def slices_of(depth: int, tile_zyx: Zyx, constraints: Constraints) -> Zyx:
    """The tile for a scan: a slice-wise network gets one no deeper than the scan, as far as its constraints allow."""
    if constraints.dims == 3 or constraints.fixed_tile_zyx is not None or depth >= tile_zyx[0]:
        return tile_zyx
    least = max(depth, constraints.min_tile_zyx[0], 2 * constraints.context_slices + 1)
    stride = constraints.stride_zyx[0]
    return min(math.ceil(least / stride) * stride, tile_zyx[0]), tile_zyx[1], tile_zyx[2]
