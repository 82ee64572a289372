"""Connected components of a label map of any size, found slab by slab.

Parts are found within each slab, and joined across slabs where they touch at the border (two passes, after Rosenfeld
& Pfaltz, Journal of the ACM 13, 1966). Memory holds one slab and a table of parts, however long the scan is.
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
"""Working memory per run while its neighbours are searched."""
FEW_RUNS = 2**14
"""Number of runs below which a slab is not made thinner."""
Progress = Callable[[int], None]
"""Called after each plane or slab with the number of planes since the last call."""


class Planes(Protocol):
    """A map [Z, Y, X] read and written by planes: a NumPy array, a memory-mapped one, an HDF5 or Zarr dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, planes: slice, /) -> Any: ...
    def __setitem__(self, planes: slice, values: Any, /) -> None: ...


def planes_at_once(labels_zyx: Planes, slab_bytes: int) -> int:
    """How many planes to process at a time so that they take about `slab_bytes` with the working copies."""
    plane = math.prod(labels_zyx.shape[1:]) * (labels_zyx.dtype.itemsize + 1)
    return max(1, slab_bytes // int(max(plane, 1)))


def runs_by_slab(
    labels_zyx: Planes, groups: Groups, slab_bytes: int = SLAB_BYTES
) -> Iterator[tuple[int, RunLengths]]:
    """The runs of a map, slab by slab; slabs are thinner where planes have many runs."""
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
        slab_bytes: working memory; the table of parts comes on top.
        neighbours: whether to find which parts touch each other and which touch the border, too.
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


def runs_of_slab(labels_zyx: Planes, parts: Parts, slab: Slab) -> tuple[RunLengths, Ints]:
    """The runs of a slab as `find_parts` found them, and their parts; runs that were not kept are found anew."""
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
        chosen: [N], which parts to write.
        values: one for all, or one per part [N].
    """
    for slab in parts.slabs:
        if chosen[parts.of(slab)].any():
            runs, number = runs_of_slab(labels_zyx, parts, slab)
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
    """Write a value (or one per picked run) over the picked runs of the slab that begins at a plane."""
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
    """The largest connected part of a mask; among equals the first in order.

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
        slabs: the first plane of each slab and the mask there [Z, Y, X]; each slab begins where the last one ended.
        connectivity: 6, the default of `scipy.ndimage.label`, or 18 or 26.
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
