"""Holes: background that a label encloses.

A hole of a label is background that cannot be left by steps along the axes without passing through the label; other
labels are no wall, and are never overwritten. Instead of one flood a label (`scipy.ndimage.binary_fill_holes`), the
parts of background and labels are found once, with a graph of which part touches which; floods run over that graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.postprocess.label_values import grouping
from ctseg.engine.postprocess.rules import RuleTarget
from ctseg.volume.components import (
    Planes,
    Progress,
    find_parts,
    paint_parts,
    runs_by_slab,
    write_runs,
)
from ctseg.volume.run_lengths import Groups, Ints, connected, touching

BACKGROUND = 1
"""The group of the background; those of the targets follow, then that of all other labels."""


def fill_holes(
    labels_zyx: Planes,
    targets: Sequence[RuleTarget],
    *,
    slab_bytes: int,
    progress: Progress | None = None,
) -> dict[str, dict[str, int]]:
    """Fill the holes of targets in the whole scan, in place.

    Where several targets enclose a hole, that one gets it whose enclosure is the smallest: the innermost.

    Returns:
        By target: `holes_filled` and `voxels_filled`.
    """
    parts = find_parts(
        labels_zyx, _groups(targets), 6, slab_bytes=slab_bytes, neighbours=True, progress=progress
    )
    outside, neighbours = parts.at_border, parts.neighbours
    assert outside is not None and neighbours is not None
    filler = enclosing(parts.group, parts.size, outside, neighbours, len(targets))
    paint_parts(labels_zyx, parts, filler > 0, _written(targets)[filler], progress)
    return _report(targets, filler, parts.size)


def fill_holes_in_slices(
    labels_zyx: Planes,
    targets: Sequence[RuleTarget],
    *,
    slab_bytes: int,
    progress: Progress | None = None,
) -> dict[str, dict[str, int]]:
    """Fill the holes that targets have within single slices along z, in place; as `fill_holes` otherwise."""
    _, height, width = labels_zyx.shape
    report = _report(targets, np.empty(0, np.int64), np.empty(0, np.int64))
    for start, runs in runs_by_slab(labels_zyx, _groups(targets), slab_bytes):
        alike: list[tuple[Ints, Ints]] = []
        unlike: list[tuple[Ints, Ints]] = []
        for one, two in touching(runs, 6, within_planes=True):
            same = runs.group[one] == runs.group[two]
            alike.append((one[same], two[same]))
            unlike.append((one[~same], two[~same]))
        joins, others = (np.concatenate(pairs, axis=1) for pairs in (alike, unlike))
        part, count = connected(len(runs), joins[0], joins[1])
        group = np.zeros(count, np.int64)
        group[part] = runs.group
        _, y, x = runs.where()
        edge = (y == 0) | (y == height - 1) | (x == 0) | (x + runs.length == width)
        outside = np.zeros(count, bool)
        outside[part[edge]] = True
        size = np.bincount(part, weights=runs.length, minlength=count).astype(np.int64)
        neighbours = np.unique(part[others].T, axis=0) if others.size else others.T
        filler = enclosing(group, size, outside, neighbours, len(targets))
        pick = filler[part] > 0
        write_runs(labels_zyx, start, runs, pick, _written(targets)[filler[part[pick]]])
        for name, counts in _report(targets, filler, size).items():
            for what, number in counts.items():
                report[name][what] += number
        if progress:
            progress(runs.shape_zyx[0])
    return report


def enclosing(
    group: Ints, size: Ints, outside: NDArray[np.bool_], neighbours: Ints, targets: int
) -> Ints:
    """For each part the target (its number from 1) that encloses it, where it is background; 0 where none does.

    Args:
        group: [N] of each part: 1 background, 2 .. targets + 1 the targets, beyond them other labels.
        size: [N] voxels.
        outside: [N] parts at the border.
        neighbours: [M, 2] parts that touch.
        targets: how many there are.
    """
    filler = np.zeros(len(group), np.int64)
    hole = (group == BACKGROUND) & ~outside
    if not hole.any():
        return filler
    one, two = neighbours.astype(np.int64).T
    low, high = np.full(len(group), len(group) + targets + 2), np.zeros(len(group), np.int64)
    for here, there in ((one, two), (two, one)):
        held = hole[here]
        np.minimum.at(low, here[held], group[there[held]])
        np.maximum.at(high, here[held], group[there[held]])
    last = BACKGROUND + targets
    plain = hole & (low == high) & (low <= last)  # one label all around: no enclosure is smaller
    filler[plain] = low[plain] - BACKGROUND
    open_ones = np.flatnonzero(hole & ~plain)
    if not len(open_ones):
        return filler
    best = np.full(len(open_ones), np.inf)
    everywhere = len(group)  # a part more: all that lies around the scan
    border = np.flatnonzero(outside)
    for target in range(1, targets + 1):
        free = group != target + BACKGROUND
        if free.all():
            continue
        passable, exits = free[one] & free[two], border[free[border]]
        room, rooms = connected(
            everywhere + 1,
            np.concatenate((one[passable], exits)),
            np.concatenate((two[passable], np.full(len(exits), everywhere))),
        )
        total = np.bincount(room[:-1], weights=size, minlength=rooms)[room[open_ones]]
        better = (room[open_ones] != room[everywhere]) & (total < best)
        best[better] = total[better]
        filler[open_ones[better]] = target
    return filler


def _groups(targets: Sequence[RuleTarget]) -> Groups:
    return grouping([{0}, *(t.values for t in targets)], other=len(targets) + BACKGROUND + 1)


def _written(targets: Sequence[RuleTarget]) -> Ints:
    return np.array([0, *(target.written for target in targets)], np.int64)


def _report(targets: Sequence[RuleTarget], filler: Ints, size: Ints) -> dict[str, dict[str, int]]:
    many = len(targets) + 1
    holes = np.bincount(filler, minlength=many)
    voxels = np.bincount(filler, weights=size, minlength=many)
    return {
        target.name: {"holes_filled": int(holes[i]), "voxels_filled": int(voxels[i])}
        for i, target in enumerate(targets, start=1)
    }
