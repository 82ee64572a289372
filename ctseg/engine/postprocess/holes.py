"""Fills holes: background that a label encloses.

A hole of a label is background from which every path along the axes to the border of the scan passes through the
label. Other labels do not enclose it, and are never overwritten. Instead of one flood fill for each label
(`scipy.ndimage.binary_fill_holes`), the connected components of background and labels are found once, with a graph of
touching components; the fills run over that graph.
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
"""Group number of the background; the groups of the targets follow, then one group for all other labels."""


def fill_holes(
    labels_zyx: Planes,
    targets: Sequence[RuleTarget],
    *,
    slab_bytes: int,
    progress: Progress | None = None,
) -> dict[str, dict[str, int]]:
    """Fill the 3D holes of targets, in place.

    If several targets enclose a hole, the innermost one, with the smallest enclosed volume, fills it.

    Returns:
        For each target `holes_filled` and `voxels_filled`.
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
    """Fill the holes of targets within single slices along z, in place; otherwise like `fill_holes`."""
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
    """For each component the number (from 1) of the target that fills it; 0 if it is no hole.

    Args:
        group: [N] groups of the components: 1 background, 2 .. targets + 1 the targets, then other labels.
        size: [N] voxels.
        outside: [N] whether a component touches the border.
        neighbours: [M, 2] pairs of touching components.
        targets: number of targets.
    """
    filler = np.zeros(len(group), np.int64)
    hole = (group == BACKGROUND) & ~outside
    if not hole.any():
        return filler
    one, two = neighbours.astype(np.int64).T
    low, high = np.full(len(group), len(group) + targets + 2), np.zeros(len(group), np.int64)
    for here, there in ((one, two), (two, one)):
        in_hole = hole[here]
        np.minimum.at(low, here[in_hole], group[there[in_hole]])
        np.maximum.at(high, here[in_hole], group[there[in_hole]])
    last = BACKGROUND + targets
    simple = hole & (low == high) & (low <= last)  # one label all around: the smallest enclosure
    filler[simple] = low[simple] - BACKGROUND
    undecided = np.flatnonzero(hole & ~simple)
    if not len(undecided):
        return filler
    best = np.full(len(undecided), np.inf)
    exterior = len(group)  # an additional component: everything around the scan
    border = np.flatnonzero(outside)
    for target in range(1, targets + 1):
        free = group != target + BACKGROUND
        if free.all():
            continue
        passable, exits = free[one] & free[two], border[free[border]]
        room, rooms = connected(
            exterior + 1,
            np.concatenate((one[passable], exits)),
            np.concatenate((two[passable], np.full(len(exits), exterior))),
        )
        total = np.bincount(room[:-1], weights=size, minlength=rooms)[room[undecided]]
        better = (room[undecided] != room[exterior]) & (total < best)
        best[better] = total[better]
        filler[undecided[better]] = target
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
