"""A pyramid written in one pass: slabs arrive at full size, and coarser levels are written as soon as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ctseg.specs import Zyx

CHUNK_ZYX: Zyx = (32, 128, 128)
_LAYER_BYTES = 2**26
"""Largest layer of chunks in all channels, which waits in memory until it is complete."""
_CHUNK_BYTES = 2**20
_SMALL = 192
"""Longest axis of the last level."""
_ISOTROPIC = 1.5
"""Ratio to the finest axis above which an axis is not halved: the pyramid makes voxels more isotropic."""


def steps(shape_zyx: Zyx, spacing_zyx: Sequence[float]) -> list[Zyx]:
    """For each level after the first the factors (1 or 2 along z, y, x) relative to the level before."""
    shape, spacing = np.array(shape_zyx), np.array(spacing_zyx, float)
    factors: list[Zyx] = []
    while shape.max() > _SMALL:
        longest = shape > 1
        halve = longest & (spacing <= _ISOTROPIC * spacing[longest].min())
        factor = np.where(halve, 2, 1)
        z, y, x = (int(f) for f in factor)
        factors.append((z, y, x))
        shape, spacing = -(-shape // factor), spacing * factor
    return factors


def chunk_of(shape_zyx: Zyx, dtype: np.dtype[Any], channels: int | None) -> Zyx:
    """The chunks of a level; the larger a slice of all channels, the flatter and wider they are.

    They are at least two slices deep, since two slices form one of the next level.
    """
    slice_bytes = shape_zyx[1] * shape_zyx[2] * dtype.itemsize * (channels or 1)
    deep = 1 << (max(2, _LAYER_BYTES // slice_bytes).bit_length() - 1)
    deep, wide = min(CHUNK_ZYX[0], deep), CHUNK_ZYX[1]
    while deep * (2 * wide) ** 2 * dtype.itemsize <= _CHUNK_BYTES and wide < max(shape_zyx[1:]):
        wide *= 2
    z, y, x = shape_zyx
    return min(z, deep), min(y, wide), min(x, wide)


def coarser(block: NDArray[Any], factors: Zyx, *, exact: bool) -> NDArray[Any]:
    """A block [C, Z, Y, X], downsampled.

    Args:
        block: along an axis of odd length the last voxels form groups of one.
        factors: 1 or 2 along z, y, x.
        exact: whether to keep the first voxel of each group, as labels require, instead of the mean.
    """
    if exact:
        return block[(slice(None), *(slice(None, None, f) for f in factors))]
    odd = [(0, -n % f) for n, f in zip(block.shape[1:], factors, strict=True)]
    padded = np.pad(block, [(0, 0), *odd], mode="edge") if any(b for _, b in odd) else block
    halves: list[int] = []
    for n, f in zip(padded.shape[1:], factors, strict=True):
        halves += [n // f, f]
    mean = padded.reshape(len(padded), *halves).mean((2, 4, 6), dtype=np.float64)
    if block.dtype.kind in "iu":
        mean = np.rint(mean)
    out: NDArray[Any] = mean.astype(block.dtype)
    return out


class LevelWriter:
    """Writes one level in blocks of whole chunks along z, and passes each block on to the next coarser level.

    Args:
        array: array of the level, [Z, Y, X] or [C, Z, Y, X].
        factors: factors to the next level.
        following: writer of the next level, None for the last one.
        exact: whether values are kept rather than averaged.
    """

    def __init__(
        self,
        array: zarr.Array[Any],
        factors: Zyx = (1, 1, 1),
        following: LevelWriter | None = None,
        *,
        exact: bool,
    ) -> None:
        self._array = array
        self._factors = factors
        self._following = following
        self._exact = exact
        self._waiting: list[NDArray[Any]] = []
        self._depth = 0
        self._next = 0
        self._layer = array.chunks[-3]

    def put(self, slab: NDArray[Any]) -> None:
        """Take the next slices [C, Z, Y, X]; at most one layer of chunks stays in memory."""
        while slab.shape[1]:
            part = slab[:, : self._layer - self._depth]
            slab = slab[:, part.shape[1] :]
            complete = part.shape[1] == self._layer
            self._waiting.append(part if complete else part.copy())
            self._depth += part.shape[1]
            if self._depth == self._layer:
                self._write()

    def finish(self) -> None:
        if self._depth:
            self._write()
        if self._following is not None:
            self._following.finish()

    def _write(self) -> None:
        block = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, 1)
        self._waiting, self._depth = [], 0
        stop = self._next + block.shape[1]
        self._array[..., self._next : stop, :, :] = block if self._array.ndim == 4 else block[0]
        self._next = stop
        if self._following is not None:
            self._following.put(coarser(block, self._factors, exact=self._exact))
