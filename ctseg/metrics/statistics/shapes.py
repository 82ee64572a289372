"""Size, centroid, box and connected parts of the labels of a map that arrives in slabs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.volume.joining import Joining
from ctseg.volume.run_lengths import Connectivity, Ints, RunLengths

CONNECTIVITY: Connectivity = 26
_EMPTY = 2**62
Span = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """The shape of a label.

    Attributes:
        voxels: their number.
        centroid_zyx: mean index of its voxels.
        box_zyx: first and last + 1 voxel along each axis.
        parts: number of connected parts.
        largest: voxels of the largest part.
    """

    voxels: int
    centroid_zyx: tuple[float, float, float]
    box_zyx: tuple[Span, Span, Span]
    parts: int
    largest: int


class Shapes:
    """Shapes of groups, numbered from 0 on.

    Args:
        plane_yx: voxels along y and x.
        regions: sets of groups whose parts are those of their union, by name.
    """

    def __init__(self, plane_yx: tuple[int, int], regions: Mapping[str, Sequence[int]]) -> None:
        def joining() -> Joining:
            return Joining((0, *plane_yx), _same, CONNECTIVITY)

        self._joining = joining()
        self._regions = {name: (groups, joining()) for name, groups in regions.items()}
        self._voxels: Ints = np.zeros(0, np.int64)
        self._sums: NDArray[np.float64] = np.zeros((3, 0))
        self._low, self._high = np.zeros((3, 0), np.int64), np.zeros((3, 0), np.int64)
        self._parts: tuple[Ints, Ints] | None = None

    def add(self, start: int, runs: RunLengths) -> None:
        """Add the next slab: its first slice, and its runs with the number of their group plus 1."""
        self._joining.add(start, runs)
        for groups, joining in self._regions.values():
            joining.add(start, _union(runs, groups))
        if not len(runs):
            return
        group, length = runs.group - 1, runs.length
        self._grow(int(group.max()) + 1)
        size = len(self._voxels)
        z, y, x = runs.where()
        z = z + start
        self._voxels += np.bincount(group, length, size).astype(np.int64)
        for axis, (first, last) in enumerate(((z, z + 1), (y, y + 1), (x, x + length))):
            middle = (first + last - 1) / 2
            self._sums[axis] += np.bincount(group, length * middle, size)
            np.minimum.at(self._low[axis], group, first)
            np.maximum.at(self._high[axis], group, last)

    def _grow(self, size: int) -> None:
        more = size - len(self._voxels)
        if more > 0:
            self._voxels = np.pad(self._voxels, (0, more))
            self._sums = np.pad(self._sums, ((0, 0), (0, more)))
            self._low = np.pad(self._low, ((0, 0), (0, more)), constant_values=_EMPTY)
            self._high = np.pad(self._high, ((0, 0), (0, more)))

    def of(self, groups: Sequence[int], name: str) -> Shape | None:
        """The shape of a group, or of the union of several; None without voxels. Nothing is added afterwards.

        Args:
            name: name of the region, if there are several groups.
        """
        if self._parts is None:
            self._parts = _counted(self._joining, len(self._voxels))
        at = [group for group in groups if group < len(self._voxels) and self._voxels[group]]
        if not at:
            return None
        voxels = int(self._voxels[at].sum())
        z, y, x = (self._sums[:, at].sum(1) / voxels).tolist()
        low, high = self._low[:, at].min(1).tolist(), self._high[:, at].max(1).tolist()
        number, largest = (int(a[at[0]]) for a in self._parts)
        if name in self._regions:
            number, largest = (int(a[0]) for a in _counted(self._regions[name][1], 1))
        box = ((low[0], high[0]), (low[1], high[1]), (low[2], high[2]))
        return Shape(voxels, (z, y, x), box, number, largest)


def _union(runs: RunLengths, groups: Sequence[int]) -> RunLengths:
    """The runs of some groups, as one group."""
    chosen = np.isin(runs.group, np.asarray(groups) + 1)
    start, length = runs.start[chosen], runs.length[chosen]
    return RunLengths(start, length, np.ones(len(start), np.int64), runs.shape_zyx)


def _counted(joining: Joining, size: int) -> tuple[Ints, Ints]:
    """Number of parts of each group, and voxels of the largest."""
    parts = joining.result()
    largest = np.zeros(size, np.int64)
    np.maximum.at(largest, parts.group - 1, parts.size)
    return np.bincount(parts.group - 1, minlength=size), largest


def _same(values: NDArray[Any]) -> NDArray[Any]:
    return values
