"""Centrelines by thinning: voxels are peeled off from all sides while this keeps connectivity, holes and ends.

Lee, Kashyap and Chu, Building skeleton models via 3-D medial surface/axis thinning algorithms (CVGIP 56, 1994). A voxel
can be removed if it is simple: removing it changes neither the parts nor the holes of what remains, which follows from
its 26 neighbours (Bertrand and Malandain, Pattern Recognition Letters 15, 1994). The candidates of one sweep are tested
again before removal, in eight turns; voxels of one turn are no neighbours, so all of them can be removed at once.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int32]

_STEPS = np.array(
    [
        (z, y, x)
        for z in (-1, 0, 1)
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
        if (z, y, x) != (0, 0, 0)
    ]
)
"""The 26 neighbours of a voxel; the index here is the bit in a code."""
_HALF = 13


def skeleton(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """The centreline of a mask [Z, Y, X], one voxel wide, with the parts and tunnels of the mask."""
    padded = np.zeros([n + 2 for n in mask.shape], np.uint8)
    padded[1:-1, 1:-1, 1:-1] = mask > 0
    flat = padded.ravel()  # a view, whatever the order of the mask in memory
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    steps = _STEPS @ strides
    sides = [int(step) for step, d in zip(steps, _STEPS, strict=True) if np.abs(d).sum() == 1]
    remaining = np.flatnonzero(flat)
    removed = True
    while removed:
        removed = False
        for side in sides:
            open_to_side = remaining[flat[remaining + side] == 0]
            codes = _codes(flat, open_to_side, steps)
            candidates = open_to_side[_simple(codes) & ~_end(codes)]
            removed |= _peel(flat, candidates, steps, padded.shape)
            remaining = remaining[flat[remaining] > 0]
    return np.asarray(padded[1:-1, 1:-1, 1:-1] > 0)


def _peel(
    flat: NDArray[np.uint8],
    candidates: NDArray[np.int64],
    steps: NDArray[np.int64],
    shape: tuple[int, ...],
) -> bool:
    """Remove the candidates that are still simple in their turn; returns whether any was removed."""
    z, y, x = np.unravel_index(candidates, shape)
    turns = (z % 2) * 4 + (y % 2) * 2 + x % 2
    removed = False
    for turn in range(8):
        now = candidates[turns == turn]
        now = now[_simple(_codes(flat, now, steps))]
        flat[now] = 0
        removed |= bool(len(now))
    return removed


def _codes(flat: NDArray[np.uint8], points: NDArray[np.int64], steps: NDArray[np.int64]) -> Codes:
    """Which of a voxel's 26 neighbours are in the structure, one bit each."""
    codes = np.zeros(len(points), np.int32)
    for bit, step in enumerate(steps):
        codes |= np.take(flat, points + step).astype(np.int32) << bit
    return codes


def _end(codes: Codes) -> NDArray[np.bool_]:
    """Whether a voxel has exactly one neighbour, and so is the end of a line."""
    return np.asarray((codes != 0) & (codes & (codes - 1) == 0))


def _simple(codes: Codes) -> NDArray[np.bool_]:
    """Whether a voxel's neighbours in the structure are connected, and those outside that touch it by a face, too."""
    near, faces, edges = _tables()
    inside = _grow(codes & -codes, codes, near)
    outside = ~codes & edges
    touching = outside & faces
    reached = _grow(touching & -touching, outside, _face_tables())
    return np.asarray(
        (codes != 0) & (inside == codes) & (touching != 0) & (touching & ~reached == 0)
    )


def _grow(seed: Codes, within: Codes, tables: tuple[Codes, Codes]) -> Codes:
    """The bits of all neighbours connected to the seed."""
    low, high = tables
    mask = np.int32((1 << _HALF) - 1)
    while True:
        more = (seed | low[seed & mask] | high[seed >> _HALF]) & within
        if np.array_equal(more, seed):
            return seed
        seed = more


@functools.cache
def _tables() -> tuple[tuple[Codes, Codes], np.int32, np.int32]:
    """Neighbours of each half of a code; the bits of the 6 face neighbours and the 18 face and edge neighbours."""
    touching = np.abs(_STEPS[:, None] - _STEPS[None]).max(-1) <= 1
    length = np.abs(_STEPS).sum(1)
    return _spread(touching), _bits(length == 1), _bits(length <= 2)


@functools.cache
def _face_tables() -> tuple[Codes, Codes]:
    return _spread(np.abs(_STEPS[:, None] - _STEPS[None]).sum(-1) <= 1)


def _bits(chosen: NDArray[np.bool_]) -> np.int32:
    return np.int32(sum(1 << bit for bit, yes in enumerate(chosen) if yes))


def _spread(touching: NDArray[np.bool_]) -> tuple[Codes, Codes]:
    """For every state of 13 bits the union of the neighbours of its bits, for the lower and the upper half."""
    halves = []
    for start in (0, _HALF):
        table = np.zeros(1 << _HALF, np.int32)
        for bit in range(_HALF):
            table[(np.arange(1 << _HALF) >> bit & 1) > 0] |= _bits(touching[start + bit])
        halves.append(table)
    return halves[0], halves[1]
