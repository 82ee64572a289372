"""Choices for slice-wise networks, whose context is a slice and whose slices are never resampled along z.

Each function returns its choice and the reason for `plan.json`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctseg.planning.fingerprint import Fingerprint

Zyx = tuple[int, int, int]
Spacing = tuple[float, float, float]
SLICES = 4
"""Slices of a patch, unless the network looks at more."""
TILE_SLICES = 16
"""Slices that are predicted at once."""


def spacing_in_plane(
    fingerprint: Fingerprint, *, patch_voxels: int, coarsest: float, share: float
) -> tuple[Spacing, str]:
    """The median spacing (z, y, x); coarser in the plane where a patch would see too little of a slice.

    Args:
        patch_voxels: voxels of a patch that the device allows.
        coarsest: largest factor by which the plane may get coarser.
        share: fraction of a median slice that a patch should see.
    """
    z, y, x = fingerprint.median_spacing_zyx
    _, rows, columns = fingerprint.median_shape_at((z, y, x))
    pixels, patch_pixels = float(rows * columns), patch_voxels / SLICES
    reason = "the median of the data in the plane; slices stay as they are"
    if patch_pixels < share * pixels:
        factor = min((share * pixels / patch_pixels) ** 0.5, coarsest)
        y, x = y * factor, x * factor
        if factor > 1:
            reason += (
                f"; coarser, so that a patch sees more than {patch_pixels / pixels:.0%} of a slice"
            )
    return (z, y, x), reason


def slices_patch(
    shape: Zyx, spacing: Spacing, *, patch_voxels: int, step_voxels: int, patches: int, context: int
) -> tuple[Zyx, str]:
    """As much of a slice as the budget allows, and few slices, since those of one scan are similar.

    Args:
        shape: shape of the median scan.
        step_voxels, patches: voxels and largest number of patches of a training step.
        context: slices on either side that the network looks at.
    """
    slices = max(SLICES, 2 * context + 3)
    mm = np.asarray(spacing[1:])
    limit = np.array([8 * math.ceil(n / 8) if n > 8 else n for n in shape[1:]], float)
    room = patch_voxels / slices
    sides: Any = (1 / mm) * (room * float(np.prod(mm))) ** 0.5
    for axis in range(2):
        if sides[axis] > limit[axis]:  # what one side cannot use goes to the other
            sides[axis] = limit[axis]
            sides[1 - axis] = min(room / limit[axis], limit[1 - axis])
    y, x = (
        int(max(8, 8 * round(s / 8))) if n > 8 else int(n)
        for s, n in zip(sides, limit, strict=True)
    )
    most = step_voxels // (patches * y * x)  # small slices leave room for more of them
    z = max(min(max(slices, most), shape[0]), 2 * context + 1)
    reason = (
        f"near a square in mm, within the median slice of {shape[1]} x {shape[2]} pixels and "
        f"{patch_voxels} voxels; few slices, as those of one scan are alike"
    )
    return (z, y, x), reason


def slices_tile(patch: Zyx, *, patch_voxels: int, context: int) -> tuple[Zyx, str]:
    """The patch with more slices, so that fewer slices are computed only as neighbours of others."""
    z, y, x = patch
    many = min(TILE_SLICES + 2 * context, 2 * patch_voxels // (y * x))
    return (max(z, many), y, x), "the patch that was trained on, with more slices"
