"""Patch size, batch size and the tile of prediction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctseg.planning.choices import Budget
from ctseg.planning.slicewise import slices_patch, slices_tile
from ctseg.planning.spacing import Spacing
from ctseg.specs import Constraints, Zyx

MOST_PATCHES = 16
"""Largest planned batch."""


def choose_patch(
    shape: Zyx, spacing: Spacing, budget: Budget, demands: Constraints
) -> tuple[Zyx, str]:
    """A patch as close to a cube in mm as scans and budget allow, in multiples of 8 along long axes.

    Args:
        shape: shape of the median scan (z, y, x) at that spacing.
        demands: constraints of the network; a slice-wise one gets few, large slices.
    """
    if demands.dims == 2:
        return slices_patch(
            shape, spacing, patch_voxels=budget.patch_voxels, patches=MOST_PATCHES,
            step_voxels=budget.batch_size * budget.patch_voxels, context=demands.context_slices,
        )  # fmt: skip
    aspect = 1 / np.asarray(spacing)
    limit = np.array([8 * math.ceil(n / 8) if n > 8 else n for n in shape], float)
    patch = _box(aspect, limit, budget.patch_voxels)
    thin = (patch < 8) & (limit > 8)
    if float(np.prod(np.where(thin, 8, patch))) > 1.5 * budget.patch_voxels:
        patch[thin] = 8  # its minimum in any case: the other axes shrink instead
        room = budget.patch_voxels / 8 ** int(thin.sum())
        patch[~thin] = _box(aspect[~thin], limit[~thin], room)
    z, y, x = (
        int(max(8, 8 * round(p / 8))) if n > 8 else int(n)
        for p, n in zip(patch, limit, strict=True)
    )
    reason = f"near a cube in mm, within the median scan of {shape} voxels and {budget.patch_voxels} voxels"
    return (z, y, x), reason


def choose_batch_size(patch: Zyx, budget: Budget) -> tuple[int, str]:
    """As many patches as the voxels of the budget hold, at least 2 and at most 16."""
    size = int(budget.batch_size * budget.patch_voxels / math.prod(patch))
    reason = f"{budget.batch_size} x {budget.patch_voxels} voxels a step, 2 at least"
    return min(max(size, 2), MOST_PATCHES), reason


def choose_tile(patch: Zyx, budget: Budget, constraints: Constraints) -> tuple[Zyx, str]:
    """The patch; for a slice-wise network with more slices."""
    if constraints.dims == 2 and constraints.fixed_tile_zyx is None:
        return slices_tile(
            patch, patch_voxels=budget.patch_voxels, context=constraints.context_slices
        )
    return patch, "the patch that was trained on"


def _box(aspect: Any, limit: Any, voxels: float) -> Any:
    """Sides of a box of that many voxels in the proportions of `aspect`, none longer than its limit."""
    sides = aspect * (voxels / np.prod(aspect)) ** (1 / len(aspect))
    for _ in range(3):  # what one axis cannot use goes to the others
        full = sides >= limit
        sides[full] = limit[full]
        free = ~full
        if not free.any() or not full.any():
            break
        room = voxels / float(np.prod(sides[full]))
        sides[free] = aspect[free] * (room / float(np.prod(aspect[free]))) ** (1 / int(free.sum()))
    return np.minimum(sides, limit)
