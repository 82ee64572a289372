"""The centreline of tubes: voxels peeled off from all sides until one more would tear, close or shorten something.

Lee, Kashyap and Chu, Building skeleton models via 3-D medial surface/axis thinning algorithms (CVGIP 56, 1994). A voxel
may go when it is simple: its removal changes neither the parts nor the holes of what is left, which its 26 neighbours
tell (Bertrand and Malandain, Pattern Recognition Letters 15, 1994). Those found in one sweep are tested once more
before they go, in eight turns; voxels of one turn are no neighbours, so that all of them can go at once.
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
"""The 26 neighbours of a voxel; the bit of each in a code is its place here."""
_HALF = 13


def skeleton(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """The centreline of a mask [Z, Y, X], one voxel wide, with the parts and tunnels of the mask."""
    padded = np.zeros([n + 2 for n in mask.shape], np.uint8)
    padded[1:-1, 1:-1, 1:-1] = mask > 0
    flat = padded.ravel()  # a view, whatever the order of the mask in memory
    strides = np.array([padded.shape[1] * padded.shape[2], padded.shape[2], 1])
    steps = _STEPS @ strides
    sides = [int(step) for step, d in zip(steps, _STEPS, strict=True) if np.abs(d).sum() == 1]
    left = np.flatnonzero(flat)
    gone = True
    while gone:
        gone = False
        for side in sides:
            open_to_side = left[flat[left + side] == 0]
            codes = _codes(flat, open_to_side, steps)
            candidates = open_to_side[_simple(codes) & ~_end(codes)]
            gone |= _peel(flat, candidates, steps, padded.shape)
            left = left[flat[left] > 0]
    return np.asarray(padded[1:-1, 1:-1, 1:-1] > 0)


def _peel(
    flat: NDArray[np.uint8],
    candidates: NDArray[np.int64],
    steps: NDArray[np.int64],
    shape: tuple[int, ...],
) -> bool:
    """Remove those candidates that are still simple when their turn comes; whether any was."""
    z, y, x = np.unravel_index(candidates, shape)
    turns = (z % 2) * 4 + (y % 2) * 2 + x % 2
    gone = False
    for turn in range(8):
        now = candidates[turns == turn]
        now = now[_simple(_codes(flat, now, steps))]
        flat[now] = 0
        gone |= bool(len(now))
    return gone


def _codes(flat: NDArray[np.uint8], points: NDArray[np.int64], steps: NDArray[np.int64]) -> Codes:
    """Which of a voxel's 26 neighbours are in the structure, a bit each."""
    codes = np.zeros(len(points), np.int32)
    for bit, step in enumerate(steps):
        codes |= np.take(flat, points + step).astype(np.int32) << bit
    return codes


def _end(codes: Codes) -> NDArray[np.bool_]:
    """Whether a voxel has exactly one neighbour: it is the end of a line."""
    return np.asarray((codes != 0) & (codes & (codes - 1) == 0))


def _simple(codes: Codes) -> NDArray[np.bool_]:
    """Whether a voxel's neighbours in the structure are one part, and so those outside that touch it by a face."""
    near, faces, edges = _tables()
    inside = _grow(codes & -codes, codes, near)
    outside = ~codes & edges
    touching = outside & faces
    reached = _grow(touching & -touching, outside, _face_tables())
    return np.asarray(
        (codes != 0) & (inside == codes) & (touching != 0) & (touching & ~reached == 0)
    )


def _grow(seed: Codes, within: Codes, tables: tuple[Codes, Codes]) -> Codes:
    """Everything that hangs together with the seed."""
    low, high = tables
    mask = np.int32((1 << _HALF) - 1)
    while True:
        more = (seed | low[seed & mask] | high[seed >> _HALF]) & within
        if np.array_equal(more, seed):
            return seed
        seed = more


@functools.cache
def _tables() -> tuple[tuple[Codes, Codes], np.int32, np.int32]:
    """Neighbours of each half of a code; the bits of the 6 face and of the 18 face and edge neighbours."""
    touching = np.abs(_STEPS[:, None] - _STEPS[None]).max(-1) <= 1
    length = np.abs(_STEPS).sum(1)
    return _spread(touching), _bits(length == 1), _bits(length <= 2)


@functools.cache
def _face_tables() -> tuple[Codes, Codes]:
    return _spread(np.abs(_STEPS[:, None] - _STEPS[None]).sum(-1) <= 1)


def _bits(chosen: NDArray[np.bool_]) -> np.int32:
    return np.int32(sum(1 << bit for bit, yes in enumerate(chosen) if yes))


def _spread(touching: NDArray[np.bool_]) -> tuple[Codes, Codes]:
    """For every state of 13 bits the union of what touches one of them, for the lower and the upper half."""
    halves = []
    for start in (0, _HALF):
        table = np.zeros(1 << _HALF, np.int32)
        for bit in range(_HALF):
            table[(np.arange(1 << _HALF) >> bit & 1) > 0] |= _bits(touching[start + bit])
        halves.append(table)
    return halves[0], halves[1]
