"""Labels that overlap: the masks that were predicted of them, and references as one map of them shows them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.evaluation.matching import Pair
from ctseg.specs import Task
from ctseg.task import may_overlap
from ctseg.volume.io import read_images
from ctseg.volume.volume import Volume

NOTE = "labels that overlap are compared as the map shows them; predict with --masks to compare each as a whole"


def read_masks(pair: Pair, task: Task | None, reference: Volume) -> Volume | None:
    """The masks of a prediction as named channels [K, Z, Y, X].

    Returns:
        None where the map says as much: the labels do not overlap, the reference has no channels, or there are no
        masks of several labels.

    Raises:
        FileProblem: a mask is damaged.
        GeometryMismatch: the masks do not lie on one grid.
    """
    if task is None or not may_overlap(task) or reference.array.ndim == 3 or len(pair.masks) < 2:
        return None
    volume = read_images(list(pair.masks.values()))
    return replace(volume, metadata={**volume.metadata, "channel_names": tuple(pair.masks)})


def as_one_map_shows(
    task: Task, label_czyx: NDArray[Any], shown: Collection[str] | None = None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The channels of a reference without what a map of one value a voxel cannot show: there the later label wins.

    Where a later label is ignored, the map may show either one, so that the voxel is ignored.

    Args:
        label_czyx: one map a label of the task, 1 in the label; another number of channels is returned as it is.
        shown: names of the labels that the map may show; None for all.

    Returns:
        The channels, and a note if any of them changed.
    """
    if not may_overlap(task) or len(label_czyx) != len(task.labels):
        return label_czyx, ()
    out = label_czyx.copy()
    covered, unknown = np.zeros((2, *out.shape[1:]), bool)
    for label, stored, channel in reversed(list(zip(task.labels, label_czyx, out, strict=True))):
        if shown is not None and label.name not in shown:
            continue
        present = stored > 0
        if task.ignore is not None:
            ignored = stored == task.ignore
            present &= ~ignored
            channel[present & unknown] = task.ignore
            unknown |= ignored
        channel[present & covered] = 0
        covered |= present
    return (out, (NOTE,)) if (out != label_czyx).any() else (label_czyx, ())
