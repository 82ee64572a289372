"""Elastic deformation: displacements at a few control points, joined by cubic B-splines (Rueckert et al. 1999).

The spline is separable, so the field is three small matrix products instead of a blurred field of noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.data.steps.interpolate import b_spline

Zyx = tuple[int, int, int]
Xyz = tuple[float, float, float]
FOLD = 0.4
"""A displacement under 1/2.48 of the control points' spacing cannot fold the scan (Choi and Lee 2000)."""


def limits(
    largest_mm: float, points: int, patch_zyx: Zyx, spacing_zyx: NDArray[np.float64], in_plane: bool
) -> tuple[Xyz, Xyz]:
    """Largest displacement in voxels z, y, x that does not fold the scan, and the control points' spacing in voxels.

    Args:
        points: along the patch's longest side in mm; the other sides have theirs as far apart, in mm.
    """
    sides = np.asarray(patch_zyx) * spacing_zyx
    apart_mm = float(sides.max()) / points
    displacement = min(largest_mm, FOLD * apart_mm) / spacing_zyx
    if in_plane:
        displacement[0] = 0.0
    z, y, x = (float(v) for v in displacement)
    one, two, three = (float(v) for v in apart_mm / spacing_zyx)
    return (z, y, x), (one, two, three)


def field(
    largest: Sequence[float],
    control: Sequence[float],
    patch_zyx: Zyx,
    seed: int,
    device: Any = "cpu",
) -> torch.Tensor:
    """Displacements in voxels, float32 [3, *patch]; none is larger than `largest`.

    Args:
        largest: in voxels z, y, x.
        control: spacing of the control points in voxels z, y, x.
    """
    bases = [basis(n, c) for n, c in zip(patch_zyx, control, strict=True)]
    rng = np.random.Generator(np.random.Philox(seed))
    values = rng.uniform(-1, 1, (3, *(b.shape[1] for b in bases)))
    values *= np.asarray(largest).reshape(3, 1, 1, 1)
    out = torch.from_numpy(values.astype(np.float32)).to(device)
    z, y, x = (torch.from_numpy(b).to(device) for b in bases)
    out = out @ x.T  # the last axis first, while the others are small
    out = y @ out
    return (z @ out.flatten(2)).view(3, *patch_zyx)


def basis(count: int, apart: float) -> NDArray[np.float32]:
    """Weights [count, K] of the K control points at each voxel; each row adds up to 1."""
    position = (np.arange(count) - (count - 1) / 2) / apart
    first = int(np.floor(position[0])) - 1
    last = int(np.floor(position[-1])) + 2
    distance = np.abs(position[:, None] - np.arange(first, last + 1)[None, :])
    return b_spline(distance).astype(np.float32)
