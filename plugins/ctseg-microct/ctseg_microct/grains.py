"""Touching grains parted by a watershed of the distance transform; the result does not depend on the blocks.

Each voxel points to its deepest neighbour (ties: the first in order), so that it leads to one maximum; paths that
leave a block are followed in the next one. Basins that meet at a neck nearly as wide as the smaller one are joined,
widest neck first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ctseg.specs import Zyx
from ctseg.volume.memory_map import drop_pages
from ctseg.volume.scratch import scratch
from ctseg_microct.blocks import Block, blocks, edge_for
from ctseg_microct.parts import Numbered
from ctseg_microct.phases import Phases, read_box
from ctseg_microct.surface import DIRECTIONS, pairs
from ctseg_microct.thickness import distances, halo_of

VOXEL_BYTES = 80
Ints = NDArray[np.int64]
_STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if step != (0, 0, 0)]


def part_grains(phases: Phases, phase: int, neck: float, limit: float, memory: int) -> Numbered:
    """The grains of a phase.

    Args:
        neck: two basins are one grain if the neck between them is at least this share of the smaller one's radius.
        limit: largest radius, in voxels of the finest axis; wider grains are not parted.
    """
    shape = phases.shape_zyx
    ends = scratch(shape, np.int64)
    targets: list[Ints] = [np.empty(0, np.int64)]
    for block, depth in _depths(phases, phase, limit, memory):
        found = _follow(depth, block, shape)
        targets.append(np.unique(found))
        _write(ends, block, found)
    ends_at = np.unique(np.concatenate(targets))
    ends_at = ends_at[ends_at > 0]
    basin = _resolve(ends, ends_at)
    count = int(basin.max(initial=-1)) + 1
    out = scratch(shape, np.int32)
    table = np.concatenate(([0], basin + 1)).astype(np.int32)
    for block in blocks(shape, edge_for(memory, VOXEL_BYTES, 0), (0, 0, 0)):
        part = read_box(ends, block.start, block.stop)
        _write(out, block, table[np.searchsorted(ends_at, part, side="right") * (part > 0)])
    del ends
    radius, necks = _necks(phases, phase, out, (count, limit, memory))
    grain = _join(radius, necks, neck)
    return renumber(out, grain, phase, memory)


def renumber(numbers: NDArray[np.int32], new: Ints, phase: int, memory: int) -> Numbered:
    """Give the objects 1, 2, ... of a map the numbers `new` from 1, and find sizes and boxes."""
    count = int(new.max(initial=0))
    table = np.concatenate(([0], new)).astype(np.int32)
    size = np.zeros(count + 1, np.int64)
    low = np.full((count + 1, 3), 2**40)
    high = np.zeros((count + 1, 3), np.int64)
    shape: Zyx = numbers.shape  # type: ignore[assignment]
    for block in blocks(shape, edge_for(memory, VOXEL_BYTES, 0), (0, 0, 0)):
        part = table[read_box(numbers, block.start, block.stop)]
        _write(numbers, block, part)
        places = np.nonzero(part)
        number = part[places]
        size += np.bincount(number, minlength=count + 1)
        for axis in range(3):
            np.minimum.at(low[:, axis], number, places[axis] + block.start[axis])
            np.maximum.at(high[:, axis], number, places[axis] + block.start[axis] + 1)
    return Numbered(numbers, np.full(count, phase), size[1:], np.stack((low[1:], high[1:]), 2))


def _depths(
    phases: Phases, phase: int, limit: float, memory: int
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    """Blocks that hold a phase, and its distance transform there and in the halo, exact up to the next voxel."""
    halo = halo_of(limit + 2, phases.spacing_zyx)
    for block in blocks(phases.shape_zyx, edge_for(memory, VOXEL_BYTES, max(halo)), halo):
        mask = phases.read(block.outer_start, block.outer_stop) == phase
        if mask[block.inner].any():
            yield block, distances(mask, phases.spacing_zyx, limit)


def _write(array: NDArray[np.generic], block: Block, values: NDArray[np.generic]) -> None:
    place = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
    array[place] = values
    drop_pages(array[place[0]])


def _follow(depth: NDArray[np.float32], block: Block, shape: Zyx) -> Ints:
    """Where the path of each voxel of a block ends or leaves the block: linear index + 1; 0 outside the phase."""
    padded = np.pad(depth, 1)
    core = depth[block.inner]
    best, step_to = core.copy(), np.zeros(core.shape, np.int64)
    for step in _STEPS:
        near = padded[
            tuple(
                slice(part.start + 1 + s, part.stop + 1 + s)
                for part, s in zip(block.inner, step, strict=True)
            )
        ]
        offset = (step[0] * shape[1] + step[1]) * shape[2] + step[2]
        better = near > best
        if offset < 0:
            better |= (near == best) & (step_to == 0)
        step_to[better] = offset
        np.maximum(best, near, out=best)
    z, y, x = np.ogrid[tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))]
    goal = (z * shape[1] + y) * shape[2] + x + step_to
    gz, rest = np.divmod(goal, shape[1] * shape[2])
    gy, gx = np.divmod(rest, shape[2])
    local = [g - a for g, a in zip((gz, gy, gx), block.start, strict=True)]
    stays = core > 0
    for place, n in zip(local, core.shape, strict=True):
        stays &= (place >= 0) & (place < n)
    flat = np.ravel_multi_index(
        tuple(np.where(stays, place, 0) for place in local), core.shape
    ).ravel()
    jump = np.where(stays.ravel(), flat, np.arange(core.size))
    while not np.array_equal(further := jump[jump], jump):
        jump = further
    return np.where(core > 0, goal.ravel()[jump].reshape(core.shape) + 1, 0)


def _resolve(ends: Ints, ends_at: Ints) -> Ints:
    """The basin, from 0, of each end of a path: ends in other blocks lead on to the end that is noted there."""
    depth, height, width = ends.shape
    del depth
    z, rest = np.divmod(ends_at - 1, height * width)
    onward = np.empty_like(ends_at)
    for at in range(0, len(z), 2**20):
        part = slice(at, at + 2**20)
        y, x = np.divmod(rest[part], width)
        onward[part] = ends[z[part], y, x]
        drop_pages(ends)
    jump = np.searchsorted(ends_at, onward)
    while not np.array_equal(further := jump[jump], jump):
        jump = further
    basin: Ints = np.unique(jump, return_inverse=True)[1]
    return basin


def _necks(
    phases: Phases, phase: int, basins: NDArray[np.int32], sizes: tuple[int, float, int]
) -> tuple[NDArray[np.float32], tuple[Ints, NDArray[np.float32]]]:
    """The radius of each basin, and the pairs of basins that touch, as one number, with the radius of their neck."""
    count, limit, memory = sizes
    radius = np.zeros(count, np.float32)
    keys, widths = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for block, depth in _depths(phases, phase, limit, memory):
        low = tuple(max(0, a - 1) for a in block.start)
        high = tuple(min(n, b + 1) for b, n in zip(block.stop, phases.shape_zyx, strict=True))
        number = read_box(basins, low, high)  # type: ignore[arg-type]
        part = depth[
            tuple(slice(a - o, b - o) for a, b, o in zip(low, high, block.outer_start, strict=True))
        ]
        inside = number > 0
        np.maximum.at(radius, number[inside] - 1, part[inside])
        for step in DIRECTIONS:
            one, two = pairs(number, step)
            meet = (one != two) & (one > 0) & (two > 0)
            first, second = one[meet].astype(np.int64) - 1, two[meet].astype(np.int64) - 1
            a, b = (values[meet] for values in pairs(part, step))
            key = np.minimum(first, second) * count + np.maximum(first, second)
            keys.append(key)
            widths.append(np.minimum(a, b))
        keys, widths = ([array] for array in _widest(keys, widths))
    return radius, _widest(keys, widths)


def _widest(
    keys: list[Ints], widths: list[NDArray[np.float32]]
) -> tuple[Ints, NDArray[np.float32]]:
    """Each key once, with its largest width."""
    key, width = np.concatenate(keys), np.concatenate(widths)
    order = np.lexsort((-width, key))
    key, first = np.unique(key[order], return_index=True)
    return key, width[order][first]


def _join(
    radius: NDArray[np.float32], necks: tuple[Ints, NDArray[np.float32]], neck: float
) -> Ints:
    """The grain, from 1, of each basin: necks are looked at from the widest to the narrowest."""
    key, width = necks
    one, two = np.divmod(key, max(1, len(radius)))
    parent, top = np.arange(len(radius)), radius.copy()

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = int(parent[at])
        return at

    for at in np.lexsort((key, -width)):
        a, b = root(int(one[at])), root(int(two[at]))
        if a != b and width[at] >= neck * min(top[a], top[b]):
            keep, gone = (a, b) if (top[a], -a) >= (top[b], -b) else (b, a)
            parent[gone] = keep
    grain: Ints = np.unique([root(at) for at in range(len(radius))], return_inverse=True)[1] + 1
    return grain
