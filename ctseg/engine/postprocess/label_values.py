"""Groups the values of a label map, and checks label maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.volume.components import Planes
from ctseg.volume.run_lengths import Groups


def grouping(sets: Sequence[Iterable[int]], *, other: int = 0) -> Groups:
    """A function that maps values of the first set to group 1, of the second to 2, ...; all others to `other`."""
    number = {value: index for index, values in enumerate(sets, start=1) for value in values}
    values = np.array(sorted(number), np.int64)
    groups = np.array([number[value] for value in sorted(number)], np.int64)

    def groups_of(voxels: NDArray[Any]) -> NDArray[Any]:
        voxels = voxels.astype(np.int64, copy=False)
        at = np.minimum(np.searchsorted(values, voxels), len(values) - 1)
        out: NDArray[Any] = np.where(values[at] == voxels, groups[at], other)
        return out

    return groups_of


def check_map(labels_zyx: Planes) -> None:
    """Reject an array that is not a label map [Z, Y, X] of whole numbers."""
    shape, kind = tuple(labels_zyx.shape), np.dtype(labels_zyx.dtype).kind
    if len(shape) != 3 or kind not in "iub":
        raise BadInput(
            f"Components and holes are found in a label map [Z, Y, X] of integers, not in one of shape {shape} and "
            f"type {labels_zyx.dtype}.",
            hint="Probabilities and regressions cannot be post-processed; write a label map first.",
        )
