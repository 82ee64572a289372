"""`UncertaintySums`: how uncertain a prediction is as a whole, and in which slices it is most uncertain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.prediction.companions import Companion

NAMED = 5
"""Most slices that are named along an axis."""
APART = 20
"""Named slices lie at least 1 / APART of the axis apart."""


class UncertaintySums(Companion):
    """Sums of an uncertainty map over the slices along each axis; the map comes slab by slab, from z = 0 on."""

    def __init__(self) -> None:
        self._of_slices: list[float] = []
        self._over_z_yx: NDArray[np.float64] | None = None

    def add(self, slab_zyx: NDArray[Any]) -> None:
        """Add the next slab, values of 0 to 1."""
        for plane in slab_zyx:  # one slice at a time takes 8 bytes for each of its voxels
            values = plane.astype(np.float64)
            self._of_slices.append(float(values.sum()))
            self._over_z_yx = values if self._over_z_yx is None else self._over_z_yx + values

    def record(self, foreground: int) -> dict[str, Any]:
        """As plain data for `predictions.json`.

        Args:
            foreground: voxels of the label map that are not background.

        Returns:
            `mean` over the scan; `per_labelled_voxel`, the sum over the scan divided by `foreground` (None without
            any); `slices`, the indices from 0 of the most uncertain slices along z, y and x, the most uncertain first.
        """
        plane = np.zeros((0, 0)) if self._over_z_yx is None else self._over_z_yx
        along = {"z": np.array(self._of_slices), "y": plane.sum(1), "x": plane.sum(0)}
        total, voxels = sum(self._of_slices), len(self._of_slices) * plane.size
        return {
            "mean": round(total / max(voxels, 1), 6),
            "per_labelled_voxel": round(total / foreground, 6) if foreground else None,
            "slices": {axis: largest_apart(sums) for axis, sums in along.items()},
        }


def largest_apart(sums: NDArray[np.float64], count: int = NAMED) -> list[int]:
    """Indices of the largest values, each at least 1 / `APART` of the axis from those before it; zeros are left out."""
    left = sums.copy()
    gap = max(1, len(left) // APART)
    chosen: list[int] = []
    while len(chosen) < count and left.size and left.max() > 0:
        best = int(left.argmax())
        chosen.append(best)
        left[max(0, best - gap + 1) : best + gap] = 0
    return chosen
