"""Companions of a result: they see its final slabs beside the scan, and add files of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctseg.metrics.statistics.gather import LabelStatistics
from ctseg.metrics.statistics.summary import as_csv, as_json
from ctseg.specs import Label
from ctseg.volume.formats.calibration import UNKNOWN

if TYPE_CHECKING:
    from ctseg.data.stream import OnDisk
    from ctseg.engine.prediction.result_files import OutputTransaction

COUNTED = 2**20
"""Voxels that are counted at a time."""


class Companion:
    """Sees the slabs of a result in order; this one does nothing with them."""

    def open(self, scan: OnDisk) -> None:
        """Prepare for the slabs of a scan."""

    def add(self, slab: NDArray[Any]) -> None:
        """Take the next slab, as it is written."""

    def close(self, files: OutputTransaction) -> None:
        """Add files that appear together with the others, after the last slab."""


class VoxelCounts(Companion):
    """Counts the voxels of each value in a label map.

    Attributes:
        voxel_ml: volume of a voxel, from `open` on; None if the scan does not state its voxel size.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.voxel_ml: float | None = None

    def open(self, scan: OnDisk) -> None:
        if not scan.reference.metadata.get(UNKNOWN):
            self.voxel_ml = scan.geometry.voxel_volume_mm3 / 1000

    def add(self, slab: NDArray[Any]) -> None:
        flat = slab.reshape(-1)
        for start in range(0, flat.size, COUNTED):  # NumPy copies 8 bytes for each voxel
            values, counts = _counts(flat[start : start + COUNTED])
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                self._counts[value] = self._counts.get(value, 0) + count

    def of(self, value: int) -> int:
        return self._counts.get(value, 0)

    @property
    def foreground(self) -> int:
        """The voxels of all values but 0."""
        return sum(count for value, count in self._counts.items() if value)


class MaskCounts(Companion):
    """Counts the voxels of each of several masks [K, Z, Y, X], which may overlap.

    Args:
        labels: labels of the masks, in their order.

    Attributes:
        voxels: by label.
    """

    def __init__(self, labels: Sequence[Label]) -> None:
        self.voxels = dict.fromkeys(labels, 0)

    def add(self, slab: NDArray[Any]) -> None:
        for label, mask in zip(self.voxels, slab, strict=True):
            self.voxels[label] += int(np.count_nonzero(mask))


def _counts(voxels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if voxels.dtype.itemsize > 2:
        return np.unique(voxels, return_counts=True)
    counts = np.bincount(voxels)
    values = np.flatnonzero(counts)
    return values, counts[values]


class StatisticsFiles(Companion):
    """Writes the statistics of the labels as JSON and CSV.

    Args:
        json, csv: the files.
        case: name of the scan.
        labels: labels, with the values of the map that belong to each.
        masks: whether slabs are masks [K, Z, Y, X], one for each label, which may overlap.
    """

    def __init__(
        self,
        json: Path,
        csv: Path,
        case: str,
        labels: Mapping[Label, frozenset[int]],
        *,
        masks: bool = False,
    ) -> None:
        self._json, self._csv, self._case = json, csv, case
        self._maps = [{label: frozenset((1,))} for label in labels] if masks else [labels]

    def open(self, scan: OnDisk) -> None:
        self._channels = scan.channels
        self._calibrated = not scan.reference.metadata.get(UNKNOWN)
        self._statistics = [LabelStatistics(scan, labels) for labels in self._maps]

    def add(self, slab: NDArray[Any]) -> None:
        for one, part in zip(self._statistics, slab if slab.ndim == 4 else [slab], strict=True):
            one.add(part)

    def close(self, files: OutputTransaction) -> None:
        found = [
            label for one in self._statistics for label in one.result(calibrated=self._calibrated)
        ]
        error, channels = max(one.error for one in self._statistics), self._channels
        files.text(self._json, as_json(self._case, found, channels=channels, error=error))
        files.text(self._csv, as_csv(self._case, found, channels=channels))
