"""Connected parts of labels that are too small, or too many, taken away."""

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
    """Take away what targets of one connectivity do not keep, in place.

    Returns:
        By target: `parts` found, `parts_removed` and `voxels_removed`.
    """
    groups = grouping([target.values for target in targets])
    parts = find_parts(
        labels_zyx, groups, targets[0].connectivity, slab_bytes=slab_bytes, progress=progress
    )
    gone = removed(parts, targets)
    beneath = np.array([0, *(target.beneath for target in targets)])
    paint_parts(labels_zyx, parts, gone, beneath[parts.group], progress)
    many = len(targets) + 1
    found = np.bincount(parts.group, minlength=many)
    fewer = np.bincount(parts.group[gone], minlength=many)
    voxels = np.bincount(parts.group[gone], weights=parts.size[gone], minlength=many)
    return {
        target.name: {
            "parts": int(found[i]),
            "parts_removed": int(fewer[i]),
            "voxels_removed": int(voxels[i]),
        }
        for i, target in enumerate(targets, start=1)
    }


def removed(parts: Parts, targets: Sequence[RuleTarget]) -> NDArray[np.bool_]:
    """Which parts go: those under the least size, and those beyond the largest; of equals the first met stays."""
    every = len(parts)
    least = np.array([0, *(target.least for target in targets)])
    keep = np.array([every, *(every if target.keep is None else target.keep for target in targets)])
    order = np.lexsort((np.arange(every), -parts.size, parts.group))
    group = parts.group[order]
    rank = np.empty(every, np.int64)
    rank[order] = np.arange(every) - np.searchsorted(group, group)
    gone: NDArray[np.bool_] = (parts.size < least[parts.group]) | (rank >= keep[parts.group])
    return gone
