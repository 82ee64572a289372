"""The area of the surface that crosses a cube of 2x2x2 voxels, for each of its 256 states.

Marching cubes (Lorensen and Cline, SIGGRAPH 1987): the surface cuts each edge of the cube half way between a voxel
inside and one outside; the cuts are joined across the cube's faces into polygons, which are split into triangles. On a
face whose diagonal voxels agree, the rarer kind of voxel (inside or outside) is cut off corner by corner. The area of
a non-planar polygon depends on the corner from which its triangles fan out, which is a convention, chosen here so that
areas are those of Nikolov et al. (Deep learning to achieve clinically applicable segmentation, 2018, surface-distance).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int, int]

FANS = "000101101201100201211020010102021110200011201102"
"""For each state below 128 with a non-planar polygon, in ascending order: the corner from which its triangles fan."""

_FACE_RING = ((0, 0), (0, 1), (1, 1), (1, 0))


@functools.cache
def triangles() -> tuple[tuple[Point, ...], ...]:
    """The triangles of each state, as normals of twice their area, in units of a quarter of a voxel face.

    Returns:
        256 tuples of (z, y, x). Bit 7 of the state is the voxel at (0, 0, 0), bit 6 the next along x, bit 5 along
        y, bit 3 along z. A state and its complement have the same triangles.
    """
    fans = iter(FANS)
    half: list[tuple[Point, ...]] = []
    for state in range(128):
        normals: list[Point] = []
        for polygon in _polygons(state):
            start = 0 if _is_planar(polygon) else int(next(fans))
            normals += _fan(polygon, start)
        half.append(tuple(normals))
    return (*half, *reversed(half))


def areas(spacing_zyx: Sequence[float]) -> NDArray[np.float64]:
    """The area in mm^2 of the surface in each of the 256 states of a cube of 2x2x2 voxels."""
    z, y, x = spacing_zyx
    return _areas(float(z), float(y), float(x))


@functools.lru_cache(maxsize=64)
def _areas(z: float, y: float, x: float) -> NDArray[np.float64]:
    scale = np.array([y * x, z * x, z * y]) / 8
    table = np.zeros(256)
    for state, normals in enumerate(triangles()):
        if normals:
            table[state] = np.linalg.norm(np.array(normals) * scale, axis=1).sum()
    table.setflags(write=False)
    return table


def _polygons(state: int) -> list[list[Point]]:
    """The closed polygons of a state, each starting at its smallest corner; points in half voxels (z, y, x)."""
    joined: dict[Point, list[Point]] = {}
    for one, two in _segments(state):
        joined.setdefault(one, []).append(two)
        joined.setdefault(two, []).append(one)
    remaining, out = set(joined), []
    while remaining:
        point = min(remaining)
        polygon: list[Point] = []
        while point in remaining:
            remaining.remove(point)
            polygon.append(point)
            point = min((p for p in joined[point] if p in remaining), default=point)
        out.append(polygon)
    return out


def _segments(state: int) -> list[tuple[Point, Point]]:
    """The line segments in which the surface crosses the six faces of the cube."""
    corner_cut = state.bit_count() <= 4  # the kind of voxel that is cut off on ambiguous faces
    out = []
    for axis in range(3):
        for side in (0, 1):
            ring = [tuple(np.insert(corner, axis, side).tolist()) for corner in _FACE_RING]
            inside = [bool(state >> (7 - (4 * z + 2 * y + x)) & 1) for z, y, x in ring]
            cuts = [i for i in range(4) if inside[i] != inside[i - 1]]  # the edge from i - 1 to i
            if len(cuts) == 4:
                cuts = [
                    edge for i in range(4) if inside[i] == corner_cut for edge in (i, (i + 1) % 4)
                ]
            points = [_between(ring[i - 1], ring[i]) for i in cuts]
            out += list(zip(points[::2], points[1::2], strict=True))
    return out


def _between(one: Sequence[int], two: Sequence[int]) -> Point:
    z, y, x = (a + b for a, b in zip(one, two, strict=True))
    return z, y, x


def _fan(polygon: list[Point], start: int) -> list[Point]:
    hub, *rest = polygon[start:] + polygon[:start]
    return [_cross(hub, one, two) for one, two in itertools.pairwise(rest)]


def _is_planar(polygon: list[Point]) -> bool:
    normals = np.array(_fan(polygon, 0))
    return bool(np.linalg.matrix_rank(normals) == 1)


def _cross(hub: Point, one: Point, two: Point) -> Point:
    z, y, x = np.cross(np.subtract(one, hub), np.subtract(two, hub)).tolist()
    return z, y, x
