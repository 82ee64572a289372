"""From the values of a label map to groups of voxels that belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.volume.components import Planes
from ctseg.volume.run_lengths import Groups


def grouping(sets: Sequence[Iterable[int]], *, other: int = 0) -> Groups:
    """Values of the first set become group 1, of the second group 2, ...; all others become `other`."""
    number = {value: index for index, values in enumerate(sets, start=1) for value in values}
    values = np.array(sorted(number), np.int64)
    groups = np.array([number[value] for value in sorted(number)], np.int64)

    def of(found: NDArray[Any]) -> NDArray[Any]:
        found = found.astype(np.int64, copy=False)
        at = np.minimum(np.searchsorted(values, found), len(values) - 1)
        out: NDArray[Any] = np.where(values[at] == found, groups[at], other)
        return out

    return of


def check_map(labels_zyx: Planes) -> None:
    """Refuse what is no label map [Z, Y, X] of whole numbers."""
    shape, kind = tuple(labels_zyx.shape), np.dtype(labels_zyx.dtype).kind
    if len(shape) != 3 or kind not in "iub":
        raise BadInput(
            f"Parts and holes are found in a label map [Z, Y, X] of integers, not in one of shape {shape} and "
            f"type {labels_zyx.dtype}.",
            hint="Probabilities and regressions have no parts; write a label map first.",
        )
