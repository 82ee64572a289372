"""Two-point functions by FFT, block by block: exact numbers of voxel pairs at every lag up to a reach.

The voxels of each block are correlated with the block and its halo. Spectra of all blocks have one size, so their
products are added up and transformed back once; numbers of pairs are whole, so rounding restores them exactly.
(Torquato, Random Heterogeneous Materials, 2002, chapters 2 and 12.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ctseg.machine import cores
from ctseg.specs import Zyx
from ctseg_microct.blocks import blocks, edge_for
from ctseg_microct.phases import read_box

SPECTRUM_BYTES = 44
"""Bytes per voxel of the largest transform: two arrays, two spectra and the sum of spectra."""
SMALL = 48
"""Edge of the boxes of clusters that are correlated one by one."""


@dataclass(frozen=True)
class Lags:
    """The lags up to a reach.

    Attributes:
        reach: largest lag in voxels along z, y, x.
        pairs: pairs of voxels at each lag [reach_z + 1, 2 reach_y + 1, 2 reach_x + 1].
        ring: for each lag, the number of its distance class; -1 beyond the reach.
        distance: mean distance of each class, mm.
    """

    reach: Zyx
    pairs: NDArray[np.float64]
    ring: NDArray[np.int64]
    distance: NDArray[np.float64]

    def radial(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean probability by distance."""
        used = self.ring >= 0
        rings, size = self.ring[used], len(self.distance)
        hits = np.bincount(rings, counts[used] * self._twice[used], size)
        every = np.bincount(rings, self.pairs[used] * self._twice[used], size)
        out: NDArray[np.float64] = hits / every
        return out

    def along(self, counts: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """Probability by lag in voxels along z, y or x."""
        place: list[Any] = [0, self.reach[1], self.reach[2]]
        place[axis] = slice(place[axis], None)
        out: NDArray[np.float64] = counts[tuple(place)] / self.pairs[tuple(place)]
        return out

    @property
    def _twice(self) -> NDArray[np.float64]:
        """Weight of a lag: lags of the plane 0 are there with both signs, others with one."""
        weight = np.full(self.ring.shape, 2.0)
        weight[0] = 1
        return weight


def reach_voxels(shape: Zyx, spacing_zyx: tuple[float, float, float], reach_mm: float) -> Zyx:
    """The largest lag along z, y, x within a distance and the volume."""
    z, y, x = (
        min(int(reach_mm / s + 1e-9), n - 1) for s, n in zip(spacing_zyx, shape, strict=True)
    )
    return z, y, x


def lags_up_to(shape: Zyx, spacing_zyx: tuple[float, float, float], reach_mm: float) -> Lags:
    """The lags of a volume up to a distance, in classes one voxel wide."""
    z, y, x = reach_voxels(shape, spacing_zyx, reach_mm)
    axes = [np.arange(0, z + 1), np.arange(-y, y + 1), np.arange(-x, x + 1)]
    count = [n - np.abs(a) for n, a in zip(shape, axes, strict=True)]
    pairs = count[0][:, None, None] * count[1][:, None] * count[2].astype(float)
    far = [(a * s) ** 2 for a, s in zip(axes, spacing_zyx, strict=True)]
    distance = np.sqrt(far[0][:, None, None] + far[1][:, None] + far[2])
    ring = np.round(distance / min(spacing_zyx)).astype(np.int64)
    ring[distance > reach_mm * (1 + 1e-9)] = -1
    used = ring >= 0
    weight = np.where(np.arange(z + 1) > 0, 2.0, 1.0)[:, None, None] * pairs
    present, compact = np.unique(ring[used], return_inverse=True)
    ring[used] = compact
    mean = np.bincount(compact, (distance * weight)[used]) / np.bincount(compact, weight[used])
    assert len(mean) == len(present)
    return Lags((z, y, x), pairs, ring, mean)


def pair_counts(
    map_zyx: NDArray[Any], value: int, lags: Lags, memory: int, box: tuple[Zyx, Zyx] | None = None
) -> NDArray[np.float64]:
    """Pairs of voxels of one value at each lag.

    Args:
        box: the part of the map that holds the value; all of it by default.
    """
    low, high = box or ((0, 0, 0), map_zyx.shape)
    shape: Zyx = tuple(b - a for a, b in zip(low, high, strict=True))  # type: ignore[assignment]
    reach: Zyx = tuple(min(r, n - 1) for r, n in zip(lags.reach, shape, strict=True))  # type: ignore[assignment]
    edge = edge_for(memory, SPECTRUM_BYTES, max(reach))
    size = transform_size(shape, reach, edge)
    total: NDArray[Any] | None = None
    for block in blocks(shape, edge, (0, reach[1], reach[2]), reach):
        start = tuple(a + o for a, o in zip(block.outer_start, low, strict=True))
        stop = tuple(b + o for b, o in zip(block.outer_stop, low, strict=True))
        outer = read_box(map_zyx, start, stop) == value  # type: ignore[arg-type]
        core = outer[block.inner]
        if not core.any():
            continue
        # a block at the border has no halo there: shift so that lag 0 always has the same place
        wide = np.zeros(size, np.float64)
        at = tuple(
            slice(r - (a - o), r - (a - o) + n)
            for r, a, o, n in zip(
                (0, reach[1], reach[2]), block.start, block.outer_start, outer.shape, strict=True
            )
        )
        wide[at] = outer
        alone = np.zeros(size, np.float64)
        alone[tuple(slice(0, n) for n in core.shape)] = core
        spectrum = fft.rfftn(alone, workers=cores(), overwrite_x=True).conj()
        spectrum *= fft.rfftn(wide, workers=cores(), overwrite_x=True)
        if total is None:
            total = spectrum
        else:
            total += spectrum
    out = np.zeros(lags.pairs.shape)
    if total is not None:
        found = np.round(fft.irfftn(total, size, workers=cores(), overwrite_x=True))
        z, y, x = reach
        middle = [slice(0, z + 1)] + [
            slice(full - r, full + r + 1) for full, r in zip(lags.reach[1:], (y, x), strict=True)
        ]
        out[tuple(middle)] = found[: z + 1, : 2 * y + 1, : 2 * x + 1]
    return out


def transform_size(shape: Zyx, reach: Zyx, edge: int) -> list[int]:
    """Size of the transforms of blocks of an edge: the block, and lags of both signs along y and x, of one along z."""
    sizes = [min(edge, n) + 2 * r for n, r in zip(shape, reach, strict=True)]
    sizes[0] -= reach[0]
    return [fft.next_fast_len(n, real=True) for n in sizes]


def correlation_length(
    distance: NDArray[np.float64], s2: NDArray[np.float64], fraction: float
) -> float | None:
    """Distance at which (S2 - f2) / (f - f2) falls to 1/e; None if it does not within the reach."""
    if not 0 < fraction < 1:
        return None
    share = (s2 - fraction**2) / (fraction - fraction**2)
    below = np.flatnonzero(share < np.exp(-1))
    if not len(below) or below[0] == 0:
        return None
    at = int(below[0])
    weight = (share[at - 1] - np.exp(-1)) / (share[at - 1] - share[at])
    return float(distance[at - 1] + weight * (distance[at] - distance[at - 1]))
