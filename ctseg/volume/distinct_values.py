"""The values of label maps: whole numbers, counted slab by slab so that nothing is copied whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput

TABLE = 1024
"""Values from 0 to here are counted in a table; others are sorted."""
SLAB_VOXELS = 2**22


def whole_numbers(array: NDArray[Any], *, where: str = "A label map") -> NDArray[Any]:
    """A label map as integers; files often store them as floats.

    Raises:
        BadInput: values that are not whole numbers.
    """
    if array.dtype.kind in "iub":
        return array
    finite = bool(np.isfinite(array).all())
    whole: NDArray[Any] = array.astype(np.int64) if finite else array
    if not finite or not np.array_equal(whole, array):
        what = "fractional values" if finite else "NaN, infinite or fractional values"
        raise BadInput(
            f"{where} holds {what} where whole numbers are due.",
            hint="Was an image or a probability map given where a label map is due? Values that are to be predicted "
            "as they are make a regression: --set task.kind=regression",
        )
    return whole


def slabs(shape: Sequence[int]) -> list[slice]:
    """Parts of an array along its first axis, of some million voxels each."""
    step = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def distinct_values(array: NDArray[Any]) -> list[int]:
    """The values of a label map, in ascending order."""
    array = whole_numbers(array)
    if not array.size:
        return []
    if array.dtype.kind == "b" or (int(array.min()) >= 0 and int(array.max()) < TABLE):
        if array.dtype == np.uint64:  # which NumPy 1 does not count
            array = array.astype(np.int64)
        counts = sum(
            np.bincount(array[part].ravel(), minlength=TABLE) for part in slabs(array.shape)
        )
        return [int(value) for value in np.flatnonzero(counts)]
    return [int(value) for value in np.unique(array)]
