"""Surfaces from voxel pairs in 13 directions (Crofton's formula), which add up over blocks and suit uneven voxels.

A boundary of area S is crossed S / (2 V) times per unit of length of an isotropic line. Directions are weighted by
their solid angle (Lehmann and Legland, Insight Journal 2012; Ohser and Muecklich, Statistical Analysis of
Microstructures).
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import SphericalVoronoi

from ctseg.specs import Zyx

DIRECTIONS: tuple[Zyx, ...] = tuple(
    step for step in itertools.product((0, 1, -1), repeat=3) if step > (0, 0, 0)
)
"""Half of the 26 steps to a neighbour."""


@lru_cache
def area_per_crossing(spacing_zyx: tuple[float, float, float]) -> tuple[float, ...]:
    """Area for each pair of different voxels, by direction, mm2."""
    steps = np.array(DIRECTIONS) * spacing_zyx
    length = np.linalg.norm(steps, axis=1)
    points = np.concatenate((steps, -steps)) / np.concatenate((length, length))[:, None]
    share = SphericalVoronoi(points).calculate_areas()[: len(steps)] / (2 * np.pi)
    return tuple(2 * float(np.prod(spacing_zyx)) * share / length)


def pairs(
    volume: NDArray[np.generic], step: Zyx
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """The voxels of an array and their neighbours one step away, where both exist."""
    one = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, volume.shape, strict=True))
    two = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, volume.shape, strict=True))
    return volume[one], volume[two]


def contacts(slab: NDArray[np.uint8], before: int, kinds: int) -> NDArray[np.int64]:
    """Pairs of different phases, [13, kinds, kinds], that end in a slab after its first `before` planes."""
    out = np.zeros((len(DIRECTIONS), kinds, kinds), np.int64)
    for at, step in enumerate(DIRECTIONS):
        part = slab[before - step[0] :] if before else slab
        if step[0] == 0 and before:
            part = slab[before:]
        one, two = pairs(part, step)
        differ = np.flatnonzero((one != two).ravel()) if one.size else np.empty(0, np.int64)
        code = one.ravel()[differ].astype(np.int64) * kinds + two.ravel()[differ]
        out[at] += np.bincount(code, minlength=kinds * kinds).reshape(kinds, kinds)
    return out
