"""Run-length encoding of label maps: stretches of equal value along x.

A map has far fewer runs than voxels, so connected parts are found among runs: NumPy finds the runs, sorted positions
give the pairs that touch, and a graph of runs gives the parts. Maps of many values take no longer than maps of one.
(Run-based labelling: He, Chao & Suzuki, IEEE Transactions on Image Processing 17, 2008.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Groups = Callable[[NDArray[Any]], NDArray[Any]]
"""From values to groups: touching voxels of one group belong to one part; group 0 is left out."""
Connectivity = Literal[6, 18, 26]
"""Whether voxels touch by faces (6), by faces and edges (18), or by corners as well (26)."""


@dataclass(frozen=True)
class RunLengths:
    """Runs in the order of their first voxels.

    Attributes:
        start: first voxel of each run, an index into the raveled slab.
        length: length in voxels.
        group: above 0; runs of one group may be adjacent within a row if their values differ.
        shape_zyx: shape of the slab.
    """

    start: Ints
    length: Ints
    group: Ints
    shape_zyx: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.start)

    def where(self) -> tuple[Ints, Ints, Ints]:
        """Plane, row and first column of each run."""
        _, height, width = self.shape_zyx
        row, x = np.divmod(self.start, width)
        z, y = np.divmod(row, height)
        return z, y, x

    def last_plane(self) -> RunLengths:
        """The runs of the last plane, as a slab of one plane."""
        depth, height, width = self.shape_zyx
        skipped = (depth - 1) * height * width
        first = int(np.searchsorted(self.start, skipped))
        start = self.start[first:] - skipped
        return RunLengths(start, self.length[first:], self.group[first:], (1, height, width))

    def behind(self, plane: RunLengths) -> RunLengths:
        """The runs of the plane before, followed by these runs."""
        depth, height, width = self.shape_zyx
        return RunLengths(
            np.concatenate((plane.start, self.start + height * width)),
            np.concatenate((plane.length, self.length)),
            np.concatenate((plane.group, self.group)),
            (depth + 1, height, width),
        )


class TooManyRuns(Exception):
    """A slab has too many runs to be held at once."""


def find_runs(slab_zyx: NDArray[Any], groups: Groups, most: int | None = None) -> RunLengths:
    """The runs of a slab [Z, Y, X] whose group is not 0.

    Raises:
        TooManyRuns: there are more than `most`, including those of group 0.
    """
    voxels = np.ascontiguousarray(slab_zyx).reshape(-1)
    width = slab_zyx.shape[2]
    begins = np.empty(voxels.shape, bool)
    np.not_equal(voxels[1:], voxels[:-1], out=begins[1:])
    begins[::width] = True  # a run ends with its row
    if most is not None and np.count_nonzero(begins) > most:
        raise TooManyRuns
    start = np.flatnonzero(begins)
    del begins
    group = np.asarray(groups(voxels[start])).astype(np.int64, copy=False)
    length = np.diff(start, append=voxels.size)
    used = group != 0
    if not used.all():
        start, length, group = start[used], length[used], group[used]
    return RunLengths(start, length, group, (slab_zyx.shape[0], slab_zyx.shape[1], width))


def touching(
    runs: RunLengths, connectivity: Connectivity, *, within_planes: bool = False
) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of runs that touch, the earlier one first, of equal or different groups; one direction at a time.

    Args:
        connectivity: connectivity of voxels.
        flat: whether to pair runs of the same plane only.
    """
    _, height, width = runs.shape_zyx
    # Positions in a grid with one more column and row, which are empty, so that rows and planes never wrap around.
    wide = width + 1
    row = runs.start // width
    first = runs.start + row + (row // height) * wide
    last = first + runs.length - 1
    plane = (height + 1) * wide
    slant = (
        0 if connectivity == 6 else 1
    )  # along x, for neighbours in the next row or the next plane
    steps = [(wide, slant)]
    if not within_planes:
        steps.append((plane, slant))
        if connectivity != 6:
            corner = 1 if connectivity == 26 else 0
            steps += [(plane - wide, corner), (plane + wide, corner)]
    near = np.flatnonzero(first[1:] == last[:-1] + 1)
    yield near, near + 1
    for step, reach in steps:
        low = np.searchsorted(last, first + (step - reach))
        high = np.searchsorted(first, last + (step + reach), side="right")
        count = high - low
        total = int(count.sum())
        if total:
            one = np.repeat(np.arange(len(runs)), count)
            two = np.arange(total) + np.repeat(low - (np.cumsum(count) - count), count)
            yield one, two


def connected(count: int, one: Ints, two: Ints) -> tuple[Ints, int]:
    """The part of each node of a graph with these edges, numbered from 0 in the order of their first nodes."""
    if not len(one):
        return np.arange(count), count
    from scipy.sparse import coo_array, csgraph  # takes a tenth of a second

    graph = coo_array((np.ones(len(one), bool), (one, two)), shape=(count, count))
    part_count, parts = csgraph.connected_components(graph, directed=False)
    first = np.empty(part_count, np.int64)
    first[parts[::-1]] = np.arange(count)[::-1]  # the last one written is the first node
    rank = np.empty(part_count, np.int64)
    rank[np.argsort(first)] = np.arange(part_count)
    return rank[parts], int(part_count)


def draw_runs(runs: RunLengths, values: NDArray[Any]) -> NDArray[Any]:
    """A slab [Z, Y, X] with the value of each run, and 0 elsewhere."""
    voxels = _spread(runs.start, runs.length, values, 0, math.prod(runs.shape_zyx))
    return voxels.reshape(runs.shape_zyx)


def paint(raveled: NDArray[Any], runs: RunLengths, chosen: NDArray[np.bool_], values: Any) -> None:
    """Write a value (or one per chosen run) over the chosen runs of a raveled slab."""
    start, length = runs.start[chosen], runs.length[chosen]
    ends = np.cumsum(length)
    values = np.broadcast_to(np.asarray(values).astype(raveled.dtype), len(start))
    at = 0
    while at < len(start):  # some voxels at a time, within the cache
        done = int(ends[at - 1]) if at else 0
        stop = max(int(np.searchsorted(ends, done + 2**17, side="right")), at + 1)
        first, part, new = start[at:stop], length[at:stop], values[at:stop]
        low, high = int(first[0]), int(first[-1] + part[-1])
        voxels = int(ends[stop - 1]) - done
        if high - low <= 6 * voxels:  # close together: writing everything between them is faster
            inside = _spread(first, part, np.ones(len(part), bool), low, high)
            np.copyto(raveled[low:high], _spread(first, part, new, low, high), where=inside)
        else:
            shift = np.repeat(first - (ends[at:stop] - part - done), part)
            raveled[np.arange(voxels) + shift] = np.repeat(new, part)
        at = stop


def _spread(start: Ints, length: Ints, values: NDArray[Any], low: int, high: int) -> NDArray[Any]:
    """The raveled voxels from `low` to `high`: the value of each run, and 0 between runs."""
    lengths = np.empty(2 * len(start) + 1, np.int64)
    lengths[1::2] = length
    lengths[0:-1:2] = start
    lengths[2:-1:2] -= start[:-1] + length[:-1]
    lengths[0] = (start[0] if len(start) else low) - low
    lengths[-1] = high - (start[-1] + length[-1] if len(start) else low)
    all_values = np.zeros(len(lengths), values.dtype)
    all_values[1::2] = values
    return np.repeat(all_values, lengths)
