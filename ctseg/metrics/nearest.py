"""Exact nearest-neighbour search from the points of a grid to marked points, fast where most lie close by.

Two surfaces of one structure mostly lie within a few voxels of each other. So the surroundings of all points are
searched at once, in order of distance, and points with a match drop out; a k-d tree searches the rest. The time grows
with the surface, where that of a distance map grows with the volume.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

MOST_OFFSETS = 1000
"""About how many offsets around a point are tried before the tree is used."""
BUDGET = 160
"""Lookups per point, on average, from which on the tree is faster."""
CHUNK = 2**17
"""Points that are searched at once."""
AT_ONCE = 2**19
"""Remaining lookups up to which all are made in one call, whatever their distance."""
TIE = 1e-12
"""Distances with a smaller relative difference are equal but for rounding."""


@dataclass(frozen=True)
class Offsets:
    """The offsets around a point, nearest first, without gaps.

    Attributes:
        steps: steps from the point as flat indices.
        shell: shell of each step; steps of one shell are equally far.
        starts: first step of each shell.
        distances: distance of each shell, in mm, ascending.
    """

    steps: Indices
    shell: Indices
    starts: Indices
    distances: NDArray[np.float64]


@dataclass(frozen=True)
class SearchGrid:
    """A grid with a margin, so that all offsets from each point stay within it.

    Attributes:
        shape_zyx: shape without the margin.
        spacing_zyx: spacing in mm.
    """

    shape_zyx: tuple[int, int, int]
    spacing_zyx: tuple[float, float, float]

    @property
    def margin_zyx(self) -> tuple[int, int, int]:
        return _offsets(self.spacing_zyx)[0]

    @property
    def padded_zyx(self) -> tuple[int, int, int]:
        z, y, x = (n + 2 * m for n, m in zip(self.shape_zyx, self.margin_zyx, strict=True))
        return z, y, x

    def marked(self, where: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Indices]:
        """The padded grid, raveled, true where `where` [Z, Y, X] is, and the flat indices of the true points."""
        out = np.zeros(self.padded_zyx, bool)
        out[
            tuple(slice(m, m + n) for n, m in zip(self.shape_zyx, self.margin_zyx, strict=True))
        ] = where
        flat = out.ravel()
        return flat, np.flatnonzero(flat)

    def around(self) -> Offsets:
        """The offsets around any point of the grid."""
        _, steps, distances = _offsets(self.spacing_zyx)
        _, height, width = self.padded_zyx
        farther = np.diff(distances) > TIE * distances[:-1]
        shell = np.concatenate([[0], np.cumsum(farther)])
        starts = np.concatenate([[0], np.flatnonzero(farther) + 1])
        return Offsets(
            steps @ np.array([height * width, width, 1]), shell, starts, distances[starts]
        )

    def distances(self, one: Indices, two: Indices) -> NDArray[np.float64]:
        """Distance from each point of `one` to the point of `two` at the same position, in mm."""
        steps = np.stack(np.unravel_index(one, self.padded_zyx), 1) - np.stack(
            np.unravel_index(two, self.padded_zyx), 1
        )
        return np.asarray(np.sqrt(np.square(steps * np.array(self.spacing_zyx)).sum(1)))

    def positions(self, points: Indices) -> NDArray[np.float64]:
        """Positions in mm [n, 3] of points given as flat indices."""
        index = np.stack(np.unravel_index(points, self.padded_zyx), 1)
        return np.asarray(index * np.array(self.spacing_zyx))


@functools.lru_cache(maxsize=64)
def _offsets(
    spacing_zyx: tuple[float, float, float],
) -> tuple[tuple[int, int, int], Indices, NDArray[np.float64]]:
    """Margin, steps [n, 3] and distances in mm of all offsets within a radius, nearest first."""
    radius = float(np.cbrt(MOST_OFFSETS * 3 / (4 * math.pi) * math.prod(spacing_zyx)))
    z, y, x = (int(radius / s) for s in spacing_zyx)
    axes = [np.arange(-n, n + 1) for n in (z, y, x)]
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    distances = np.sqrt(np.square(steps * np.array(spacing_zyx)).sum(1))
    order = np.lexsort((*steps.T, distances))
    order = order[distances[order] <= radius]
    if len(order) > MOST_OFFSETS:  # slices are so thick that all lie in one; end with a whole shell
        order = order[distances[order] < distances[order[MOST_OFFSETS]] * (1 - TIE)]
    steps, distances = steps[order], distances[order]
    z, y, x = np.abs(steps).max(axis=0).tolist()
    return (z, y, x), steps, distances


def nearest(
    points: Indices, marks: NDArray[np.bool_], marked: Indices, grid: SearchGrid
) -> tuple[Indices, NDArray[np.float64]]:
    """For each point the nearest marked point, as the distance to it.

    Args:
        points: flat indices in the padded grid.
        marks, marked: as `SearchGrid.marked` returns them; at least one marked point.

    Returns:
        for each point an index into the distances, and the distances in mm, ascending.
    """
    around = grid.around()
    ranks, remaining = [], []
    for start in range(0, len(points), CHUNK):
        rank, far = _search_shells(points[start : start + CHUNK], marks, around)
        ranks.append(rank)
        remaining.append(far + start)
    rank, far = np.concatenate(ranks), np.concatenate(remaining)
    distances = around.distances
    if len(far):
        rank[far] = len(distances) + np.arange(len(far))
        distances = np.append(distances, _search_tree(points[far], marked, grid))
    ascending, order = np.unique(distances, return_inverse=True)
    return order[rank], ascending


def _search_shells(
    points: Indices, marks: NDArray[np.bool_], around: Offsets
) -> tuple[Indices, Indices]:
    """The shell in which each point finds a mark, and the points that find none."""
    rank = np.zeros(len(points), np.int64)
    searching, who = points, np.arange(len(points))
    work, total = 0, len(around.steps)
    for number, start in enumerate(around.starts.tolist()):
        if len(who) * (total - start) <= AT_ONCE:
            hits = marks.take(searching[:, None] + around.steps[None, start:])
            first = hits.argmax(1) if len(who) else np.zeros(0, np.int64)
            hit = hits[np.arange(len(who)), first]
            rank[who[hit]] = around.shell[start + first[hit]]
            return rank, who[~hit]
        if work > BUDGET * len(points):
            break
        stop = int(around.starts[number + 1]) if number + 1 < len(around.starts) else total
        hit = marks.take(searching + around.steps[start])
        for step in around.steps[start + 1 : stop].tolist():
            hit |= marks.take(searching + step)
        work += (stop - start) * len(who)
        if hit.any():
            rank[who[hit]] = number
            searching, who = searching[~hit], who[~hit]
    return rank, who


def _search_tree(points: Indices, marked: Indices, grid: SearchGrid) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    tree = cKDTree(grid.positions(marked), balanced_tree=False, compact_nodes=False)
    _, at = tree.query(grid.positions(points))
    return grid.distances(points, marked[at])
