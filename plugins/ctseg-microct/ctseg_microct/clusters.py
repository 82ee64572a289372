"""Two-point cluster function C2: two points of one connected part, at a distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ctseg_microct.correlation import Lags, pair_counts
from ctseg_microct.parts import Numbered


def cluster_counts(parts: Numbered, phase: int, lags: Lags, memory: int) -> NDArray[np.float64]:
    """Pairs of voxels of the same part at each lag; exact, with a transform in the box of each part."""
    out = np.zeros(lags.pairs.shape)
    own = np.flatnonzero(parts.phase == phase)
    alone = parts.size[own] == 1
    out[0, lags.reach[1], lags.reach[2]] += int(alone.sum())
    for number in own[~alone]:
        low = tuple(int(v) for v in parts.box[number, :, 0])
        high = tuple(int(v) for v in parts.box[number, :, 1])
        out += pair_counts(parts.map, int(number) + 1, lags, memory, (low, high))  # type: ignore[arg-type]
    return out
