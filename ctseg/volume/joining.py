"""Joins the connected parts of slabs into the parts of a whole map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.volume.run_lengths import Connectivity, Groups, Ints, RunLengths, connected, touching

MOST_PARTS = 2**31 - 1
KEPT_RUN_BYTES = 28


@dataclass(frozen=True)
class Slab:
    """Some planes of a map; their parts are numbered separately until parts of different slabs are joined.

    Attributes:
        start, stop: planes along z.
        offset, count: its parts are numbered from `offset`.
        runs: kept from the first pass if memory allows.
        part: part of each run kept, from 0 within the slab.
    """

    start: int
    stop: int
    offset: int
    count: int
    runs: RunLengths | None = None
    part: NDArray[Any] | None = None


@dataclass
class Parts:
    """The connected parts of a map, numbered from 0 in the order of their first voxels.

    Attributes:
        number: for each part of a slab, the part of the map that it belongs to.
        size: [N] voxels.
        group: [N] group of each part.
        slabs: the slabs in which they were found.
        groups: the mapping from values to groups that was used.
        connectivity: connectivity of voxels.
        box_zyx: [N, 3, 2], first and last + 1 voxel along each axis, if requested.
        at_border: [N] whether a part touches the border of the map, if neighbours were requested.
        neighbours: [M, 2] parts of different groups that touch, each pair once, if requested.
    """

    number: Ints
    size: Ints
    group: Ints
    slabs: tuple[Slab, ...]
    groups: Groups
    connectivity: Connectivity
    box_zyx: Ints | None = None
    at_border: NDArray[np.bool_] | None = None
    neighbours: Ints | None = None

    def __len__(self) -> int:
        return len(self.size)

    def of(self, slab: Slab) -> Ints:
        """The part numbers of a slab's parts."""
        return self.number[slab.offset : slab.offset + slab.count]


class Joining:
    """Takes the slabs of a map in order along z and joins their parts.

    Args:
        shape_zyx: shape of the map; its length matters only with `neighbours`.
        groups: the mapping from values to groups with which the runs were found.
        connectivity: connectivity of voxels.
        boxes: whether to find the box of each part.
        neighbours: whether to find which parts touch (with the same connectivity), and which touch the border.
        keep_bytes: memory for the runs of slabs, which saves finding them again.
    """

    def __init__(
        self,
        shape_zyx: tuple[int, int, int],
        groups: Groups,
        connectivity: Connectivity = 26,
        *,
        boxes: bool = False,
        neighbours: bool = False,
        keep_bytes: int = 0,
    ) -> None:
        self.shape_zyx, self.groups, self.connectivity = shape_zyx, groups, connectivity
        self.boxes, self.neighbours, self.room = boxes, neighbours, keep_bytes
        self.count = 0
        self.slabs: list[Slab] = []
        self.tables: dict[str, list[NDArray[Any]]] = {}
        self.before: tuple[RunLengths, Ints] | None = None
        """The runs of the last plane so far and the part number of each."""

    def add(self, start: int, runs: RunLengths) -> None:
        """Add the next slab, which begins at the plane `start`.

        Raises:
            ValueError: it does not begin where the last one ended.
            BadInput: the map has too many parts.
        """
        stop = start + runs.shape_zyx[0]
        if self.slabs and start != self.slabs[-1].stop:
            raise ValueError(
                f"a slab from {start} cannot follow one that ends at {self.slabs[-1].stop}"
            )
        named, both = np.empty(0, np.int64), runs
        if self.before is not None:
            both, named = runs.behind(self.before[0]), self.before[1]
        inner, across, unlike = _links(both, self.connectivity, len(named), self.neighbours)
        part, count = connected(len(runs), inner[0] - len(named), inner[1] - len(named))
        offset = self.count
        self.count += count
        if self.count > MOST_PARTS:
            raise BadInput(f"The map holds more than {MOST_PARTS} parts: it is noise.")
        numbers = np.concatenate((named, part + offset))
        self._note("joins", _distinct(numbers[across[0]], numbers[across[1]], self.count))
        size = np.bincount(part, weights=runs.length, minlength=count)
        self._note("size", size.astype(np.uint32 if runs.length.sum() < 2**32 else np.int64))
        group = np.zeros(count, np.int64)
        group[part] = runs.group
        self._note("group", group.astype(np.min_scalar_type(int(group.max(initial=0)))))
        if self.neighbours:
            self._note("neighbours", _distinct(numbers[unlike[0]], numbers[unlike[1]], self.count))
            self._note("at_border", np.unique(part[self._at_border(start, runs)]) + offset)
        if self.boxes:
            self._note("boxes", _boxes(start, runs, part, count))
        cost = len(runs) * KEPT_RUN_BYTES
        if cost <= self.room:
            self.room -= cost
            self.slabs.append(Slab(start, stop, offset, count, runs, part.astype(np.int32)))
        else:
            self.slabs.append(Slab(start, stop, offset, count))
        last = runs.last_plane()
        self.before = last, part[len(runs) - len(last) :] + offset

    def result(self) -> Parts:
        """All parts of the map."""
        joins = self._table("joins", np.int32, 2)
        number, count = connected(self.count, joins[:, 0], joins[:, 1])
        weights = self._table("size", np.int64)
        size = np.bincount(number, weights=weights, minlength=count).astype(np.int64)
        group = np.zeros(count, np.int64)
        group[number] = self._table("group", np.int64)
        out = Parts(number, size, group, tuple(self.slabs), self.groups, self.connectivity)
        if self.neighbours:
            out.at_border = np.zeros(count, bool)
            out.at_border[number[self._table("at_border", np.int64)]] = True
            pairs = number[self._table("neighbours", np.int32, 2)]
            out.neighbours = _distinct(pairs[:, 0], pairs[:, 1], count).astype(np.int64)
        if self.boxes:
            boxes = self._table("boxes", np.int64, 6).reshape(-1, 3, 2)
            out.box_zyx = _over(boxes, number, count)
        return out

    def _at_border(self, start: int, runs: RunLengths) -> NDArray[np.bool_]:
        depth, height, width = self.shape_zyx
        z, y, x = runs.where()
        out: NDArray[np.bool_] = (z == -start) | (z == depth - 1 - start)
        out |= (y == 0) | (y == height - 1) | (x == 0) | (x + runs.length == width)
        return out

    def _note(self, name: str, rows: NDArray[Any]) -> None:
        if len(rows):
            self.tables.setdefault(name, []).append(rows)

    def _table(self, name: str, dtype: Any, columns: int = 0) -> NDArray[Any]:
        rows = self.tables.pop(name, None)
        if rows is None:
            return np.empty((0, columns) if columns else 0, dtype)
        return np.concatenate(rows)


def parts_within(runs: RunLengths, connectivity: Connectivity) -> Ints:
    """The part of each run, within its slab only, numbered as `Joining` does."""
    inner, _, _ = _links(runs, connectivity, 0, neighbours=False)
    return connected(len(runs), *inner)[0]


Pairs = tuple[Ints, Ints]


def _links(
    runs: RunLengths, connectivity: Connectivity, previous: int, neighbours: bool
) -> tuple[Pairs, Pairs, Pairs]:
    """Pairs of touching runs: of one group within the slab, of one group across its first plane, of different groups.

    Args:
        previous: the number of runs that belong to the plane before the slab.
    """
    inner, across, unlike = [], [], []
    for one, two in touching(runs, connectivity):
        same_group = runs.group[one] == runs.group[two]
        if neighbours:
            other = ~same_group & (two >= previous)
            unlike.append((one[other], two[other]))
        if not same_group.all():
            one, two = one[same_group], two[same_group]
        if previous:
            within, over = one >= previous, (one < previous) & (two >= previous)
            across.append((one[over], two[over]))
            one, two = one[within], two[within]
        inner.append((one, two))
    return _together(inner), _together(across), _together(unlike)


def _together(pairs: list[Pairs]) -> Pairs:
    if not pairs:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate([one for one, _ in pairs]), np.concatenate([two for _, two in pairs])


def _distinct(one: Ints, two: Ints, count: int) -> NDArray[np.int32]:
    """Each pair of numbers below `count` once, the smaller number first, [M, 2]."""
    keys = np.unique(np.minimum(one, two) * np.int64(count) + np.maximum(one, two))
    return np.stack(np.divmod(keys, max(count, 1)), 1).astype(np.int32)


def _boxes(start: int, runs: RunLengths, part: Ints, count: int) -> Ints:
    """The box of each part of a slab, [count, 6]."""
    z, y, x = runs.where()
    z += start
    each = np.stack((z, z + 1, y, y + 1, x, x + runs.length), 1).reshape(-1, 3, 2)
    return _over(each, part, count).reshape(-1, 6)


def _over(boxes: Ints, number: Ints, count: int) -> Ints:
    """The boxes [count, 3, 2] that enclose the boxes [M, 3, 2] of each number; every number occurs."""
    if not count:
        return np.empty((0, 3, 2), np.int64)
    order = np.argsort(number, kind="stable")
    heads = np.searchsorted(number[order], np.arange(count))
    low = np.minimum.reduceat(boxes[order, :, 0], heads)
    high = np.maximum.reduceat(boxes[order, :, 1], heads)
    return np.stack((low, high), 2)
