"""Media whose descriptors are known, for tests and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctseg.volume.geometry import Geometry
from ctseg_microct.phases import Phases


def phases_of(index: Any, spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Phases:
    """A map [Z, Y, X] of phases 0, 1, ... that is in memory."""
    index = np.ascontiguousarray(index, np.uint8)
    voxels = tuple(int(n) for n in np.bincount(index.ravel()))
    values = tuple(range(len(voxels)))
    names = tuple(f"label_{value}" for value in values)
    return Phases(values, names, index, Geometry(index.shape, spacing_xyz), voxels)


def overlapping_spheres(edge: int, radius: float, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Balls at random places of a periodic cube."""
    centres = np.random.default_rng(seed).uniform(0, edge, (count, 3))
    out = np.zeros((edge, edge, edge), np.uint8)
    reach = np.arange(-int(radius) - 1, int(radius) + 2)
    for centre in centres:
        axes = [int(c) + reach for c in centre]
        far = [(axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)]
        z, y, x = np.nonzero(far[0][:, None, None] + far[1][:, None] + far[2] <= radius**2)
        out[axes[0][z] % edge, axes[1][y] % edge, axes[2][x] % edge] = 1
    return out


def sphere(
    shape: tuple[int, int, int], radius: float, spacing_zyx: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> NDArray[np.uint8]:
    """One ball in the middle."""
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    far: Any = sum(
        ((g - (n - 1) / 2) * s) ** 2 for g, n, s in zip(grid, shape, spacing_zyx, strict=True)
    )
    return (far <= radius**2).astype(np.uint8)


def blobs(edge: int, width: float = 2.5, seed: int = 0, share: float = 0.5) -> NDArray[np.uint8]:
    """A smoothed and thresholded random field."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((edge,) * 3), width)
    return (field > np.quantile(field, 1 - share)).astype(np.uint8)
