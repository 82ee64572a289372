"""A pyramid written in one pass: slabs come in at full size, every coarser level follows as soon as it can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ctseg.specs import Zyx

CHUNK_ZYX: Zyx = (32, 128, 128)
_LAYER_BYTES = 2**26
"""Chunks are so flat that a layer of them in all channels is no larger: it waits in memory until it is whole."""
_CHUNK_BYTES = 2**20
_SMALL = 192
"""A level no longer than this along any axis is the last one."""
_ISOTROPIC = 1.5
"""Axes coarser than this many times the finest one are not halved: the pyramid evens spacings out."""


def steps(shape_zyx: Zyx, spacing_zyx: Sequence[float]) -> list[Zyx]:
    """For each level after the first the factors (1 or 2 along z, y, x) by which it is coarser than the one before."""
    shape, spacing = np.array(shape_zyx), np.array(spacing_zyx, float)
    found: list[Zyx] = []
    while shape.max() > _SMALL:
        longest = shape > 1
        halve = longest & (spacing <= _ISOTROPIC * spacing[longest].min())
        factors = np.where(halve, 2, 1)
        z, y, x = (int(f) for f in factors)
        found.append((z, y, x))
        shape, spacing = -(-shape // factors), spacing * factors
    return found


def chunk_of(shape_zyx: Zyx, dtype: np.dtype[Any], channels: int | None) -> Zyx:
    """The chunks of a level; the more a slice of all channels takes, the flatter and wider they are.

    They are at least two slices deep, since two make one of the next level.
    """
    slice_bytes = shape_zyx[1] * shape_zyx[2] * dtype.itemsize * (channels or 1)
    deep = 1 << (max(2, _LAYER_BYTES // slice_bytes).bit_length() - 1)
    deep, wide = min(CHUNK_ZYX[0], deep), CHUNK_ZYX[1]
    while deep * (2 * wide) ** 2 * dtype.itemsize <= _CHUNK_BYTES and wide < max(shape_zyx[1:]):
        wide *= 2
    z, y, x = shape_zyx
    return min(z, deep), min(y, wide), min(x, wide)


def coarser(block: NDArray[Any], factors: Zyx, *, exact: bool) -> NDArray[Any]:
    """A block [C, Z, Y, X] at a fraction of its size.

    Args:
        block: with an odd number of voxels along an axis the last ones stand alone.
        factors: 1 or 2 along z, y, x.
        exact: whether to keep the first voxel of each group, as labels need it; else their mean.
    """
    if exact:
        return block[(slice(None), *(slice(None, None, f) for f in factors))]
    odd = [(0, -n % f) for n, f in zip(block.shape[1:], factors, strict=True)]
    whole = np.pad(block, [(0, 0), *odd], mode="edge") if any(b for _, b in odd) else block
    halves: list[int] = []
    for n, f in zip(whole.shape[1:], factors, strict=True):
        halves += [n // f, f]
    mean = whole.reshape(len(whole), *halves).mean((2, 4, 6), dtype=np.float64)
    if block.dtype.kind in "iu":
        mean = np.rint(mean)
    out: NDArray[Any] = mean.astype(block.dtype)
    return out


class LevelWriter:
    """Writes one level in blocks of whole chunks along z, and hands each on to the next coarser level.

    Args:
        array: of the level, [Z, Y, X] or [C, Z, Y, X].
        factors: towards the next level.
        following: the writer of that, None for the last level.
        exact: labels are kept rather than averaged.
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
            taken = slab[:, : self._layer - self._depth]
            slab = slab[:, taken.shape[1] :]
            whole = taken.shape[1] == self._layer
            self._waiting.append(taken if whole else taken.copy())
            self._depth += taken.shape[1]
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
