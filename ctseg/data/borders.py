"""What lies beyond the border of a scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def reflect(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices reflected into 0..size-1 at the centres of the outer voxels; an axis of one voxel repeats it."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    folded = np.abs(index) % period
    out: NDArray[np.int64] = np.minimum(folded, period - folded)
    return out
