"""Combination of the contours of one region of interest on one plane.

DICOM (PS3.3, C.8.8.6.3) defines the combination for CLOSEDPLANAR_XOR only. For CLOSED_PLANAR the practice of planning
systems applies: a contour inside another one is a hole, one inside a hole an island, and contours that cross or are
repeated never cancel each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctseg_dicom import raster

_SAME = 0.5
"""Largest distance, in pixels, at which contours are copies: no wall between them could be drawn."""
_REPEATS = 1e-3
"""The same in pixels, for the points of a contour that runs round several times."""
_MOST_POINTS = 3000
"""Number of points above which contours are compared by a subset of them."""

Polygon = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """The contours of one region on one plane.

    Attributes:
        polygons: [N, 2] of x and y in pixels; without copies, unless the contours cancel.
        cancels: whether they are CLOSEDPLANAR_XOR: an area in an even number of them is outside.
        copies: number of contours that were left out as copies.
    """

    polygons: tuple[Polygon, ...]
    cancels: bool = False
    copies: int = 0

    @classmethod
    def of(cls, polygons: Sequence[Polygon], *, cancels: bool = False) -> Plane:
        once = [_one_turn(polygon) for polygon in polygons]
        boxes = np.array([[*p.min(0), *p.max(0)] for p in once])
        unique: list[int] = []
        copies = 0
        for number, polygon in enumerate(once):
            near = (
                np.flatnonzero(np.abs(boxes[unique] - boxes[number]).max(1) <= _SAME)
                if unique
                else ()
            )
            copy = any(_same(polygon, once[unique[index]]) for index in near)
            copies += copy
            if cancels or not copy:
                unique.append(number)
        return cls(tuple(once[number] for number in unique), cancels, copies)

    def mask(self, shape_yx: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels [Y, X] inside."""
        return self._combined(shape_yx)[0]

    def crossings(self, shape_yx: tuple[int, int]) -> int:
        """The number of contours that cross others and were joined with them."""
        low, high = (np.array([end(p, 0) for p in self.polygons]) for end in (np.min, np.max))
        apart = all(
            ((low[n] > high[:n]) | (high[n] < low[:n])).any(1).all() for n in range(1, len(low))
        )
        return 0 if self.cancels or apart else self._combined(shape_yx)[1]

    def _combined(self, shape_yx: tuple[int, int]) -> tuple[NDArray[np.bool_], int]:
        if self.cancels or len(self.polygons) < 2:
            return raster.fill(self.polygons, shape_yx), 0
        out = np.zeros(shape_yx, bool)
        crossings = 0
        for polygon in sorted(self.polygons, key=_area, reverse=True):
            rows, mask = raster.fill_rows(polygon, shape_yx)
            part = out[rows]
            inside = int((mask & part).sum())
            if inside and inside == int(mask.sum()):
                part &= ~mask
            else:
                part |= mask
                crossings += inside > 0
        return out, crossings


def _area(polygon: Polygon) -> float:
    x, y = (polygon - polygon[0]).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def _one_turn(polygon: Polygon) -> Polygon:
    """A contour that runs round several times, reduced to one turn, since the turns would cancel each other."""
    moves = np.abs(polygon - np.roll(polygon, 1, axis=0)).max(1) > _REPEATS
    points: Polygon = polygon[moves]  # each turn may be closed by its first point
    count = len(points)
    again = np.flatnonzero(np.abs(points - points[:1]).max(1) <= _REPEATS).tolist()
    for period in again[1:]:
        if count % period == 0 and np.abs(points[period:] - points[:-period]).max() <= _REPEATS:
            return points[:period]
    return polygon


def _same(one: Polygon, two: Polygon) -> bool:
    """Whether two contours enclose the same area, whatever their start and direction."""
    one, two = (p[:: -(-len(p) // _MOST_POINTS)] for p in (one, two))
    return max(_farthest(one, two), _farthest(two, one)) <= _SAME


def _farthest(points: Polygon, outline: Polygon) -> float:
    """The largest distance of the points of one contour from the lines of another one."""
    run = np.roll(outline, -1, axis=0) - outline
    length = np.maximum((run**2).sum(1), 1e-12)
    worst = 0.0
    for part in np.array_split(points, 1 + len(points) * len(outline) // 500_000):
        away = part[:, None, :] - outline[None]
        share = ((away * run).sum(2) / length).clip(0, 1)
        distance = np.linalg.norm(away - share[..., None] * run, axis=2).min(1)
        worst = max(worst, float(distance.max(initial=0)))
        if worst > _SAME:
            break
    return worst
