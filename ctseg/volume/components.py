"""Connected parts of a label map that may be far larger than memory, found slab by slab.

Parts are found within each slab, and joined across slabs by what touches at their borders (two passes, after Rosenfeld
& Pfaltz, Journal of the ACM 13, 1966). Memory holds one slab and a table of parts, whatever the length of the scan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctseg.volume.joining import Joining, Parts, Slab, parts_within
from ctseg.volume.memory_map import drop_pages
from ctseg.volume.run_lengths import (
    Connectivity,
    Groups,
    Ints,
    RunLengths,
    TooManyRuns,
    find_runs,
    paint,
)

SLAB_BYTES = 64 * 2**20
RUN_BYTES = 160
"""Working memory that a run costs while its neighbours are looked for."""
FEW_RUNS = 2**14
"""No slab is made thinner for so few."""
Progress = Callable[[int], None]
"""Told of each plane or slab that has been passed: the number of planes since the last call."""


class Planes(Protocol):
    """A map [Z, Y, X] read and written by planes: a NumPy array, a memory-mapped one, an HDF5 or Zarr dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, planes: slice, /) -> Any: ...
    def __setitem__(self, planes: slice, values: Any, /) -> None: ...


def planes_at_once(labels_zyx: Planes, slab_bytes: int) -> int:
    """How many planes are worked on at a time: about `slab_bytes` with the working copies."""
    plane = math.prod(labels_zyx.shape[1:]) * (labels_zyx.dtype.itemsize + 1)
    return max(1, slab_bytes // int(max(plane, 1)))


def runs_by_slab(
    labels_zyx: Planes, groups: Groups, slab_bytes: int = SLAB_BYTES
) -> Iterator[tuple[int, RunLengths]]:
    """The runs of a map, slab by slab; slabs are thinner where the map is ragged."""
    depth, most = labels_zyx.shape[0], max(slab_bytes // RUN_BYTES, FEW_RUNS)
    full = thick = planes_at_once(labels_zyx, slab_bytes)
    start = 0
    while start < depth:
        stop = min(start + thick, depth)
        slab = labels_zyx[start:stop]
        try:
            runs = find_runs(np.asarray(slab), groups, most if stop - start > 1 else None)
        except TooManyRuns:
            thick = (stop - start + 1) // 2
            continue
        yield start, runs
        drop_pages(slab)
        start, thick = stop, min(2 * thick, full)


def find_parts(
    labels_zyx: Planes,
    groups: Groups,
    connectivity: Connectivity = 26,
    *,
    slab_bytes: int = SLAB_BYTES,
    neighbours: bool = False,
    progress: Progress | None = None,
) -> Parts:
    """The connected parts of the voxels of each group.

    Args:
        labels_zyx: whole numbers [Z, Y, X].
        groups: from values to groups; see `Groups`.
        connectivity: 6, 18 or 26.
        slab_bytes: of memory to work in; the table of parts comes on top.
        neighbours: find which parts touch each other and which the border, too.
    """
    joining = Joining(
        (labels_zyx.shape[0], labels_zyx.shape[1], labels_zyx.shape[2]),
        groups, connectivity, neighbours=neighbours, keep_bytes=slab_bytes // 4,
    )  # fmt: skip
    for start, runs in runs_by_slab(labels_zyx, groups, slab_bytes):
        joining.add(start, runs)
        if progress:
            progress(runs.shape_zyx[0])
    return joining.result()


def again(labels_zyx: Planes, parts: Parts, slab: Slab) -> tuple[RunLengths, Ints]:
    """The runs of a slab as `find_parts` found them, and the part of each; read again where they were not kept."""
    runs, part = slab.runs, slab.part
    if runs is None or part is None:
        runs = find_runs(np.asarray(labels_zyx[slab.start : slab.stop]), parts.groups)
        part = parts_within(runs, parts.connectivity)
    return runs, parts.of(slab)[part]


def paint_parts(
    labels_zyx: Planes,
    parts: Parts,
    chosen: NDArray[np.bool_],
    values: NDArray[Any] | int,
    progress: Progress | None = None,
) -> None:
    """Write values over some parts of the map in which they were found.

    Args:
        chosen: [N], which parts.
        values: one for all, or one a part [N].
    """
    for slab in parts.slabs:
        if chosen[parts.of(slab)].any():
            runs, number = again(labels_zyx, parts, slab)
            pick = chosen[number]
            new = values if isinstance(values, int) else values[number[pick]]
            write_runs(labels_zyx, slab.start, runs, pick, new)
        if progress:
            progress(slab.stop - slab.start)


def write_runs(
    labels_zyx: Planes,
    start: int,
    runs: RunLengths,
    pick: NDArray[np.bool_],
    values: NDArray[Any] | int,
) -> None:
    """Write a value (or one a picked run) over the picked runs of the slab that begins at a plane."""
    if not pick.any():
        return
    stop = start + runs.shape_zyx[0]
    planes = labels_zyx[start:stop]
    block = np.ascontiguousarray(planes)
    paint(block.reshape(-1), runs, pick, values)
    if not (isinstance(labels_zyx, np.ndarray) and np.may_share_memory(block, planes)):
        labels_zyx[start:stop] = block
    drop_pages(planes)


@dataclass(frozen=True)
class LargestPart:
    """The largest connected part of a mask; of several the one first met.

    Attributes:
        voxels: its size; 0 where the mask is empty.
        box_zyx: first and last + 1 voxel along z, y, x; None where the mask is empty.
    """

    voxels: int
    box_zyx: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None


def largest_part(
    slabs: Iterable[tuple[int, NDArray[np.bool_]]], connectivity: Connectivity = 6
) -> LargestPart:
    """The largest connected part of a mask that arrives in slabs along z.

    Args:
        slabs: the first plane of each slab, and the mask there [Z, Y, X]; each slab goes on where the last one ended.
        connectivity: 6 is what `scipy.ndimage.label` joins on its own.
    """
    joining: Joining | None = None
    for start, mask in slabs:
        if joining is None:
            joining = Joining((0, *mask.shape[1:]), _true, connectivity, boxes=True)
        joining.add(start, find_runs(mask, _true))
    parts = None if joining is None else joining.result()
    if parts is None or not len(parts) or parts.box_zyx is None:
        return LargestPart(0, None)
    best = int(parts.size.argmax())
    z, y, x = ((int(low), int(high)) for low, high in parts.box_zyx[best])
    return LargestPart(int(parts.size[best]), (z, y, x))


def _true(values: NDArray[Any]) -> NDArray[Any]:
    return values
