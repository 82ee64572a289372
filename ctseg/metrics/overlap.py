"""Overlap of predicted and reference labels, counted in one pass over both maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import Task
from ctseg.volume.distinct_values import TABLE, slabs, whole_numbers

MOST_VALUES = 4096
"""Most values in a label map: every pair of values is counted, which would take gigabytes for more."""
Histogram = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The K values of two maps, and how often each pair occurs, [K, K]: rows for one map, columns for the other."""


@dataclass(frozen=True)
class OverlapCounts:
    """Number of voxels of one label: predicted, in the reference, and in both."""

    predicted: int
    reference: int
    both: int

    @property
    def dice(self) -> float | None:
        """2|A and B| / (|A| + |B|), in 0..1 (Dice, Ecology 26, 1945); None where the label is in neither."""
        total = self.predicted + self.reference
        return 2 * self.both / total if total else None

    @property
    def iou(self) -> float | None:
        """|A and B| / |A or B|, in 0..1 (Jaccard); None where the label is in neither."""
        union = self.predicted + self.reference - self.both
        return self.both / union if union else None

    @property
    def precision(self) -> float | None:
        """|A and B| / |A|, in 0..1: the fraction of the prediction that is right; None where nothing is predicted."""
        return self.both / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """|A and B| / |B|, in 0..1: the fraction of the reference that was found; None where it is empty."""
        return self.both / self.reference if self.reference else None


def dice(one: NDArray[Any], two: NDArray[Any]) -> float | None:
    """Dice of two boolean maps of one shape; None where both are empty."""
    return mask_counts(one, two).dice


def iou(one: NDArray[Any], two: NDArray[Any]) -> float | None:
    """Intersection over union of two boolean maps of one shape; None where both are empty."""
    return mask_counts(one, two).iou


def mask_counts(
    predicted: NDArray[Any], reference: NDArray[Any], valid: NDArray[Any] | None = None
) -> OverlapCounts:
    """Counts of two boolean maps of one shape, over the valid voxels."""
    _check_shapes(predicted, reference)
    one, two = predicted.astype(bool, copy=False), reference.astype(bool, copy=False)
    if valid is not None:
        one, two = one & valid, two & valid
    return OverlapCounts(int(one.sum()), int(two.sum()), int((one & two).sum()))


def label_counts(
    task: Task,
    predicted: NDArray[Any],
    reference: NDArray[Any],
    valid: NDArray[np.bool_] | None = None,
    histogram: Histogram | None = None,
) -> dict[str, OverlapCounts]:
    """Counts of each foreground label of a task; voxels that the reference ignores do not count.

    Args:
        predicted, reference: maps of label values [Z, Y, X], or one map per label [C, Z, Y, X], where a voxel
            belongs to the label if it is above 0.5 (binary maps and probabilities alike).
        valid: [Z, Y, X], the only voxels that count; None for all.
        histogram: the joint histogram of the voxels of two maps of values that count, if it is known already.

    Raises:
        BadInput: the shapes differ, a value is not a whole number, or the channels are not the task's labels.
    """
    _check_shapes(predicted, reference)
    if predicted.ndim == reference.ndim == 3:
        return _from_histogram(task, histogram or valid_histogram(predicted, reference, valid))
    counts = {}
    for index, label in enumerate(task.foreground):
        one = label_mask(task, predicted, index)
        two = label_mask(task, reference, index)
        counts[label.name] = mask_counts(one, two, label_valid(task, reference, index, valid))
    return counts


def valid_histogram(
    predicted: NDArray[Any], reference: NDArray[Any], valid: NDArray[np.bool_] | None
) -> Histogram:
    """The joint histogram over the voxels that count."""
    if valid is None:
        return joint_histogram(predicted, reference)
    return joint_histogram(predicted[valid], reference[valid])


def confusion(task: Task, histogram: Histogram) -> dict[str, dict[str, int]]:
    """For each label of the reference, how many of its voxels were predicted as which label; without zeros.

    Voxels that the reference ignores do not count. Empty for tasks whose labels may overlap.
    """
    values, table = histogram
    if task.kind != "classes":
        return {}
    names = {value: label.name for label in task.labels for value in label.values}
    rest = task.labels[0].name  # 0 is the background, whether a label names it or not
    out: dict[str, dict[str, int]] = {}
    for row, column in zip(*np.nonzero(table), strict=True):
        if values[column] == task.ignore:
            continue
        predicted, reference = (names.get(int(values[i]), rest) for i in (row, column))
        line = out.setdefault(reference, {})
        line[predicted] = line.get(predicted, 0) + int(table[row, column])
    return out


def _from_histogram(task: Task, histogram: Histogram) -> dict[str, OverlapCounts]:
    values, table = histogram
    if task.ignore is not None:
        table = table[:, values != task.ignore]
    columns = values if task.ignore is None else values[values != task.ignore]
    out = {}
    for label in task.foreground:
        in_rows, in_columns = np.isin(values, label.values), np.isin(columns, label.values)
        out[label.name] = OverlapCounts(
            predicted=int(table[in_rows].sum()),
            reference=int(table[:, in_columns].sum()),
            both=int(table[in_rows][:, in_columns].sum()),
        )
    return out


def joint_histogram(one: NDArray[Any], two: NDArray[Any]) -> Histogram:
    """How often each pair of values occurs in two label maps of one shape.

    Returns:
        The K values that either map may hold, and [K, K] counts: rows for `one`, columns for `two`.

    Raises:
        BadInput: a value is not a whole number, or there are more values than a label map has.
    """
    one, two = (
        a.astype(np.int64) if a.dtype == np.uint64 else a  # uint64 mixes with no signed type
        for a in (whole_numbers(one), whole_numbers(two))
    )
    if not one.size:  # nothing counts
        return np.arange(1), np.zeros((1, 1), np.int64)
    low = min(int(a.min()) for a in (one, two))
    high = max(int(a.max()) for a in (one, two))
    if low >= 0 and high < TABLE:
        values = np.arange(high + 1)
        lookup = None
    else:
        values = np.union1d(np.unique(one), np.unique(two)).astype(np.int64)
        lookup = values
    size = len(values)
    if size > MOST_VALUES:
        raise BadInput(
            f"The two maps hold {size} different values; label maps with at most {MOST_VALUES} are compared.",
            hint="Are the values ids of instances? Add --instance-ids (instances=True in Python). Was an image given "
            "where a label map is expected?",
        )
    table = np.zeros(size * size, np.int64)
    for part in slabs(one.shape):
        first, second = one[part].ravel(), two[part].ravel()
        if (
            lookup is None
        ):  # most voxels of most maps are background in both, which is counted quickly
            labelled = np.flatnonzero(first | second)
            if len(labelled) < first.size // 2:
                table[0] += first.size - len(labelled)
                first, second = first[labelled], second[labelled]
        else:
            first, second = np.searchsorted(lookup, first), np.searchsorted(lookup, second)
        kind = np.int32 if size < 2**15 else np.int64
        pairs = first.astype(kind) * size + second.astype(kind)
        table += np.bincount(pairs, minlength=size * size)
    return values, table.reshape(size, size)


def label_mask(task: Task, array: NDArray[Any], index: int) -> NDArray[np.bool_]:
    """Where a map [Z, Y, X] or [C, Z, Y, X] has the foreground label of an index, bool [Z, Y, X]."""
    if array.ndim == 3:
        values = task.foreground[index].values
        return np.asarray(array == values[0]) if len(values) == 1 else np.isin(array, values)
    expected = {len(task.foreground), len(task.labels)}
    if array.shape[0] not in expected:
        raise BadInput(
            f"The map has {array.shape[0]} channels, the task has {len(task.foreground)} labels."
        )
    offset = array.shape[0] - len(task.foreground)  # classes: channel 0 is the background
    channel = array[index + offset]
    inside = channel > 0.5
    if task.ignore is not None:
        inside &= channel != task.ignore
    return np.asarray(inside)


def label_valid(
    task: Task,
    reference: NDArray[Any],
    index: int,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_] | None:
    """Where the foreground label of an index counts, bool [Z, Y, X]; None if all voxels count."""
    if task.ignore is None:
        return valid
    channel = reference
    if reference.ndim == 4:
        channel = reference[index + reference.shape[0] - len(task.foreground)]
    counted: NDArray[np.bool_] = np.asarray(channel != task.ignore)
    return counted if valid is None else counted & valid


def _check_shapes(one: NDArray[Any], two: NDArray[Any]) -> None:
    if one.shape[-3:] != two.shape[-3:]:
        raise BadInput(f"The maps have the shapes {one.shape} and {two.shape} and must be alike.")
