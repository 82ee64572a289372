"""Gathers the statistics of labels from a label map that arrives slab by slab, and from the scan behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctseg.metrics.statistics.moments import NOTHING, Moments
from ctseg.metrics.statistics.shapes import Shapes
from ctseg.metrics.statistics.summary import SHARES, MeasuredLabel, MeasuredValues
from ctseg.metrics.statistics.value_counts import ValueCounts, quantiles
from ctseg.specs import Label
from ctseg.volume.run_lengths import RunLengths, find_runs

if TYPE_CHECKING:
    from ctseg.data.stream import Scan

SCAN_BYTES = 2**26
"""The scan is read in boxes of at most about this size."""
PIECE_VOXELS = 2**21
"""Voxels that are looked at together; this bounds the memory where each voxel differs from the next."""
Found = tuple[int, RunLengths]
"""The first slice of a piece of the map, and its runs."""


class LabelStatistics:
    """Statistics of the labels of a map; takes its slabs in order.

    Args:
        scan: read in boxes around the labels of each slab.
        labels: labels in the order of the result, with the values of the map that belong to each: several for a region
            that contains others. None takes each value but 0 for a label.
    """

    def __init__(self, scan: Scan, labels: Mapping[Label, frozenset[int]] | None = None) -> None:
        self._scan, self._labels = scan, labels
        self._geometry = scan.geometry
        wanted = sorted(set().union(*(labels or {}).values()))
        self._values = np.array(wanted, np.int64)
        self._group = np.arange(len(wanted))
        """The group of each value; values are ascending, groups in the order in which they are met."""
        regions = {
            label.name: self._groups_of(values).tolist()
            for label, values in (labels or {}).items()
            if len(values) > 1
        }
        _, height, width = self._geometry.shape_zyx
        self._shapes = Shapes((height, width), regions)
        self._moments = [NOTHING] * scan.channels
        self._counts = [ValueCounts() for _ in range(scan.channels)]
        self._next = 0

    @property
    def error(self) -> float:
        """Largest relative error of median and percentiles; 0 if they are exact."""
        return max(counts.error for counts in self._counts)

    def add(self, map_zyx: NDArray[Any]) -> None:
        """Add the next slab of the map: whole numbers [Z, Y, X]."""
        plane = map_zyx.shape[1] * map_zyx.shape[2]
        slices = max(1, SCAN_BYTES // (self._scan.channels * self._scan.dtype.itemsize * plane))
        for first in range(0, len(map_zyx), slices):
            self._add(map_zyx[first : first + slices], max(1, PIECE_VOXELS // plane))

    def _add(self, map_zyx: NDArray[Any], step: int) -> None:
        found: list[Found] = []
        for first in range(0, len(map_zyx), step):
            runs = find_runs(map_zyx[first : first + step], self._numbered)
            self._shapes.add(self._next, runs)
            if len(runs):
                found.append((self._next, runs))
            self._next += runs.shape_zyx[0]
        if not found:
            return
        corners = np.array([_extent(*one) for one in found])
        low, high = corners[:, 0].min(0), corners[:, 1].max(0)
        box = tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))
        image = self._scan.box((box[0], box[1], box[2]))
        for one in found:
            self._add_values(one, image, low)

    def _numbered(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The group of values plus 1; 0 for those of no label."""
        values = values.astype(np.int64)
        if self._labels is None:
            new = np.setdiff1d(values, [0, *self._values])
            together = np.concatenate((self._values, new))
            group = np.concatenate((self._group, len(self._group) + np.arange(len(new))))
            order = np.argsort(together)
            self._values, self._group = together[order], group[order]
        if not len(self._values):
            return np.zeros(len(values), np.int64)
        at = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
        return np.where(self._values[at] == values, self._group[at] + 1, 0)

    def _groups_of(self, values: frozenset[int]) -> NDArray[np.int64]:
        groups: NDArray[np.int64] = self._group[np.searchsorted(self._values, sorted(values))]
        return groups

    def _add_values(self, found: Found, image_czyx: NDArray[Any], low: NDArray[np.int64]) -> None:
        """Add the scan's values in the runs of a piece; `low` is the first voxel of the image."""
        start, runs = found
        z, y, x = runs.where()
        _, _, height, width = image_czyx.shape
        first = ((z + start - low[0]) * height + y - low[1]) * width + x - low[2]
        ends = np.cumsum(runs.length)
        places = np.arange(ends[-1]) + np.repeat(first - (ends - runs.length), runs.length)
        groups = np.repeat(runs.group - 1, runs.length)
        for channel, image in enumerate(image_czyx):
            each = _tallied(groups, np.ascontiguousarray(image).reshape(-1)[places])
            self._moments[channel] += Moments.of(*each)
            self._counts[channel].add(*each)

    def result(self, *, calibrated: bool = True) -> list[MeasuredLabel]:
        """The summaries, in the order of the labels, or of the values where no labels were given.

        Args:
            calibrated: whether the voxel size is known; without it nothing is told in millimetres.
        """
        labels = self._labels
        if labels is None:
            labels = {Label("", (v,), v): frozenset((v,)) for v in self._values.tolist()}
        return [self._summary(label, values, calibrated) for label, values in labels.items()]

    def _summary(self, label: Label, values: frozenset[int], calibrated: bool) -> MeasuredLabel:
        groups = self._groups_of(values).tolist()
        shape = self._shapes.of(groups, label.name)
        if shape is None:
            return MeasuredLabel(label, None, None, None, False, ())
        z, y, x = shape.centroid_zyx
        place = np.asarray(self._geometry.position((x, y, z))).tolist()
        ends = zip(shape.box_zyx, self._geometry.shape_zyx, strict=True)
        return MeasuredLabel(
            label,
            shape,
            self._geometry.voxel_volume_mm3 if calibrated else None,
            (place[0], place[1], place[2]) if calibrated else None,
            any(n > 1 and (a == 0 or b == n) for (a, b), n in ends),
            tuple(
                _measured(moments.joined(groups), counts, groups)
                for moments, counts in zip(self._moments, self._counts, strict=True)
            ),
        )


def _extent(start: int, runs: RunLengths) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The box around the runs of a piece: first voxel, and the one past the last."""
    z, y, x = runs.where()
    last = x + runs.length
    return (
        (start + int(z.min()), int(y.min()), int(x.min())),
        (start + int(z.max()) + 1, int(y.max()) + 1, int(last.max())),
    )


def _tallied(
    groups: NDArray[np.int64], values: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64] | None]:
    """The distinct pairs of group and value with their counts, for whole numbers of a small range; else all pairs."""
    if values.dtype.kind not in "iub":
        return groups, values, None
    low = int(values.min())
    span = int(values.max()) - low + 1
    if (int(groups.max()) + 1) * span > max(2**16, 4 * len(values)):
        return groups, values, None
    table = np.bincount(groups * span + (values.astype(np.int64) - low))
    pairs = np.flatnonzero(table)
    return pairs // span, pairs % span + low, table[pairs]


def _measured(moments: Moments, counts: ValueCounts, groups: list[int]) -> MeasuredValues:
    count, mean, squares, low, high = (float(a[0]) for a in moments.arrays)
    shares = quantiles(*counts.of(groups), SHARES).clip(low, high).tolist()
    return MeasuredValues(mean, (squares / count) ** 0.5, low, high, tuple(shares))
