"""Where the voxels of a scan went: the steps that move voxels, followed axis by axis.

Every step moves voxels along the axes only: it flips, permutes, cuts, pads or resamples them. So three lists say where
all voxels of a scan lie on the network's grid, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Track:
    """The way of one axis (z, y or x) of a scan.

    Attributes:
        axis: the axis (0 z, 1 y, 2 x) of the grid reached that runs along it.
        at: [N] where each voxel centre lies along that axis, in its voxels.
        inside: [N] whether it still lies within every grid on the way.
    """

    axis: int
    at: NDArray[np.float64]
    inside: NDArray[np.bool_]

    def shifted(self, by: int, size: int) -> Track:
        """After a crop or a padding: `by` voxels added in front (negative: cut), `size` in all."""
        at = self.at + by
        return replace(self, at=at, inside=self.inside & (at >= -0.5) & (at < size - 0.5))

    def resampled(self, positions: NDArray[np.float64], size: int) -> Track:
        """After a resampling to `size` voxels, `positions` saying where the centres before lie after it.

        Between the centres positions are interpolated; beyond them, where a crop has cut, they go on at the mean step.
        """
        last = len(positions) - 1
        step = (positions[-1] - positions[0]) / last if last else float(size)
        beyond = self.at - np.clip(self.at, 0, last)
        at = np.interp(self.at, np.arange(last + 1), positions)  # exact at the centres
        return replace(self, at=at + step * beyond)


Tracks = tuple[Track, Track, Track]


def straight(shape_zyx: tuple[int, int, int]) -> Tracks:
    """The tracks of a scan to which nothing has happened."""
    z, y, x = (
        Track(axis, np.arange(size, dtype=np.float64), np.ones(size, bool))
        for axis, size in enumerate(shape_zyx)
    )
    return z, y, x


def each(tracks: Tracks, change: Any) -> Tracks:
    """The tracks after `change(track)`."""
    z, y, x = (change(track) for track in tracks)
    return z, y, x
