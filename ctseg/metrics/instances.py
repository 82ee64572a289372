"""Metrics of instances (grains, cells, fibres, single lesions): adapted Rand error and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.volume.distinct_values import slabs, whole_numbers

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Contingency:
    """Number of voxels that each instance of one map shares with each instance of another.

    Attributes:
        predicted_ids, reference_ids: the ids of rows and columns, ascending, including 0 (no instance).
        shared: numbers of voxels, sparse, [predicted, reference].
    """

    predicted_ids: NDArray[np.int64]
    reference_ids: NDArray[np.int64]
    shared: csr_array


def contingency(
    predicted: NDArray[Any], reference: NDArray[Any], valid: NDArray[np.bool_] | None = None
) -> Contingency:
    """Count the voxels that each pair of instances shares.

    Args:
        predicted, reference: maps of ids, of one shape; 0 means no instance.
        valid: the voxels that count; None for all.

    Raises:
        BadInput: the shapes differ, or a map holds fractional values.
    """
    from scipy.sparse import csr_array

    if predicted.shape != reference.shape:
        raise BadInput(
            f"The maps have the shapes {predicted.shape} and {reference.shape} and must be alike."
        )
    one, two = whole_numbers(predicted), whole_numbers(reference)
    runs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for part in slabs(one.shape):
        rows, columns = one[part], two[part]
        if valid is not None:
            rows, columns = rows[valid[part]], columns[valid[part]]
        ids = np.stack([rows.ravel(), columns.ravel()]).astype(np.int64)
        change = np.flatnonzero((ids[:, 1:] != ids[:, :-1]).any(0)) + 1
        starts = np.concatenate([[0], change]) if ids.size else change
        lengths = np.diff(np.append(starts, ids.shape[1]))  # ids come in runs: few pairs remain
        runs.append((ids[:, starts], lengths))
    pairs = np.concatenate([ids for ids, _ in runs], axis=1)
    lengths = np.concatenate([lengths for _, lengths in runs])
    predicted_ids, rows = np.unique(np.append(pairs[0], 0), return_inverse=True)
    reference_ids, columns = np.unique(np.append(pairs[1], 0), return_inverse=True)
    shape = (len(predicted_ids), len(reference_ids))
    shared = csr_array((lengths, (rows[:-1], columns[:-1])), shape=shape, dtype=np.int64)
    shared.sum_duplicates()
    return Contingency(predicted_ids, reference_ids, shared)


@dataclass(frozen=True)
class AdaptedRand:
    """The adapted Rand error and its parts, 0..1.

    Attributes:
        error: 1 - F-score of pairs of voxels of one instance, over the voxels of the reference's instances.
        precision: fraction of the pairs joined by the prediction that belong together; None where it joins none.
        recall: fraction of the pairs that belong together that the prediction joins; None where none do.
    """

    error: float
    precision: float | None
    recall: float | None


def adapted_rand(overlaps: Contingency) -> AdaptedRand | None:
    """The adapted Rand error (Arganda-Carreras et al., Frontiers in Neuroanatomy 9:142, 2015).

    Voxels without an instance in the reference do not count; those without one in the prediction form one instance.

    Returns:
        None where no two voxels share an instance in either map.
    """
    table = overlaps.shared[:, np.flatnonzero(overlaps.reference_ids != 0)]
    voxels = float(table.sum())
    both = float(np.square(table.data.astype(np.float64)).sum()) - voxels
    joined = float(np.square(table.sum(axis=1).astype(np.float64)).sum()) - voxels
    belong = float(np.square(table.sum(axis=0).astype(np.float64)).sum()) - voxels
    if not joined + belong:
        return None
    precision, recall = (both / pairs if pairs else None for pairs in (joined, belong))
    return AdaptedRand(1 - 2 * both / (joined + belong), precision, recall)


@dataclass(frozen=True)
class Matches:
    """Numbers of instances found, invented and missed at one IoU threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def average_precision(self) -> float | None:
        """TP / (TP + FP + FN), in 0..1; None where neither map has an instance."""
        total = self.true_positives + self.false_positives + self.false_negatives
        return self.true_positives / total if total else None


def match(overlaps: Contingency, threshold: float) -> Matches:
    """Match instances one to one whose IoU is at least the threshold, with as many matches as possible.

    Args:
        threshold: above 0 and at most 1. Above 0.5 an instance can match at most one other.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    table = overlaps.shared.tocoo()
    sizes = overlaps.shared.sum(axis=1), overlaps.shared.sum(axis=0)
    union = sizes[0][table.row] + sizes[1][table.col] - table.data
    kept = (table.data >= threshold * union - 1e-9) & (table.data > 0)
    kept &= (overlaps.predicted_ids[table.row] != 0) & (overlaps.reference_ids[table.col] != 0)
    fitting = csr_array(
        (np.ones(np.count_nonzero(kept), bool), (table.row[kept], table.col[kept])),
        shape=table.shape,
    )
    matched = maximum_bipartite_matching(fitting, perm_type="column")
    hits = int(np.count_nonzero(matched >= 0))
    counts = [
        int(np.count_nonzero((ids != 0) & (size > 0)))
        for ids, size in zip((overlaps.predicted_ids, overlaps.reference_ids), sizes, strict=True)
    ]
    return Matches(hits, counts[0] - hits, counts[1] - hits)


def average_precision(overlaps: Contingency, thresholds: Sequence[float] = (0.5,)) -> float | None:
    """The mean of TP / (TP + FP + FN) over IoU thresholds, 0..1 (Caicedo et al., Nature Methods 16, 2019).

    Returns:
        None where neither map has an instance.
    """
    values = [match(overlaps, threshold).average_precision for threshold in thresholds]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Instances of a mask: its components, connected by face, edge or corner, numbered from 1."""
    from scipy.ndimage import label

    numbered, _ = label(mask, np.ones((3,) * mask.ndim, int))
    return np.asarray(numbered, np.int32)
