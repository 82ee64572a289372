"""Removes connected components of labels that are too small or too many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.postprocess.label_values import grouping
from ctseg.engine.postprocess.rules import RuleTarget
from ctseg.volume.components import Planes, Progress, find_parts, paint_parts
from ctseg.volume.joining import Parts


def remove_parts(
    labels_zyx: Planes,
    targets: Sequence[RuleTarget],
    *,
    slab_bytes: int,
    progress: Progress | None = None,
) -> dict[str, dict[str, int]]:
    """Remove the components that targets (of one connectivity) do not keep, in place.

    Returns:
        For each target the number of `parts`, `parts_removed` and `voxels_removed`.
    """
    groups = grouping([target.values for target in targets])
    parts = find_parts(
        labels_zyx, groups, targets[0].connectivity, slab_bytes=slab_bytes, progress=progress
    )
    removed = removed_parts(parts, targets)
    beneath = np.array([0, *(target.beneath for target in targets)])
    paint_parts(labels_zyx, parts, removed, beneath[parts.group], progress)
    groups_count = len(targets) + 1
    count = np.bincount(parts.group, minlength=groups_count)
    removed_count = np.bincount(parts.group[removed], minlength=groups_count)
    voxels = np.bincount(parts.group[removed], weights=parts.size[removed], minlength=groups_count)
    return {
        target.name: {
            "parts": int(count[i]),
            "parts_removed": int(removed_count[i]),
            "voxels_removed": int(voxels[i]),
        }
        for i, target in enumerate(targets, start=1)
    }


def removed_parts(parts: Parts, targets: Sequence[RuleTarget]) -> NDArray[np.bool_]:
    """Which components to remove: those below the minimum size or outside the largest ones; ties keep the first."""
    every = len(parts)
    least = np.array([0, *(target.least for target in targets)])
    keep = np.array([every, *(every if target.keep is None else target.keep for target in targets)])
    order = np.lexsort((np.arange(every), -parts.size, parts.group))
    group = parts.group[order]
    rank = np.empty(every, np.int64)
    rank[order] = np.arange(every) - np.searchsorted(group, group)
    out: NDArray[np.bool_] = (parts.size < least[parts.group]) | (rank >= keep[parts.group])
    return out
