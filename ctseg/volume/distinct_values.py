"""The values of label maps: whole numbers, counted slab by slab to avoid a copy of the whole array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput

TABLE = 1024
"""Values from 0 up to here are counted in a table; others are sorted."""
SLAB_VOXELS = 2**22


def whole_numbers(array: NDArray[Any], *, where: str = "A label map") -> NDArray[Any]:
    """A label map as integers; files often store them as floats.

    Raises:
        BadInput: values that are not whole numbers.
    """
    if array.dtype.kind in "iub":
        return array
    finite = bool(np.isfinite(array).all())
    integers: NDArray[Any] = array.astype(np.int64) if finite else array
    if not finite or not np.array_equal(integers, array):
        what = "fractional values" if finite else "NaN, infinite or fractional values"
        raise BadInput(
            f"{where} holds {what} where whole numbers are expected.",
            hint="Was an image or a probability map given where a label map is expected? Values that are to be "
            "predicted as they are make a regression: --set task.kind=regression",
        )
    return integers


def slabs(shape: Sequence[int]) -> list[slice]:
    """Slices of an array along its first axis, of some million voxels each."""
    step = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def distinct_values(array: NDArray[Any]) -> list[int]:
    """The values of a label map, in ascending order."""
    array = whole_numbers(array)
    if not array.size:
        return []
    if array.dtype.kind == "b" or (int(array.min()) >= 0 and int(array.max()) < TABLE):
        if array.dtype == np.uint64:  # np.bincount of NumPy 1 rejects it
            array = array.astype(np.int64)
        counts = sum(
            np.bincount(array[part].ravel(), minlength=TABLE) for part in slabs(array.shape)
        )
        return [int(value) for value in np.flatnonzero(counts)]
    return [int(value) for value in np.unique(array)]
