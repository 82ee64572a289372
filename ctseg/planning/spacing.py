"""The target spacing of a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctseg.planning.choices import Budget
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.slicewise import spacing_in_plane

Spacing = tuple[float, float, float]
ANISOTROPY = 3.0
CONTEXT = 0.25
"""A patch should see at least this share of a median scan; else the spacing is made coarser, as far as allowed."""


def choose_spacing(
    found: Fingerprint, asked_xyz: Spacing | None, budget: Budget, *, slicewise: bool
) -> tuple[Spacing, str]:
    """nnU-Net's target spacing z, y, x, made coarser evenly where a patch would see too little of a scan.

    Args:
        asked_xyz: what the user set; 0 keeps the spacing of each scan along that axis.
        slicewise: for a slice-wise network; it counts what a slice holds, and slices stay where they are.
    """
    if asked_xyz is None:
        find = spacing_in_plane if slicewise else spacing_in_space
        return find(
            found, patch_voxels=budget.patch_voxels, coarsest=budget.coarsest, share=CONTEXT
        )
    own = found.median_spacing_zyx
    z, y, x = (asked or median for asked, median in zip(asked_xyz[::-1], own, strict=True))
    if not any(asked_xyz):
        return (z, y, x), "the median of the data; no scan is resampled"
    return (z, y, x), "as asked"


def rounded_mm(length: float, digits: int) -> float:
    """A length with so many decimals, or digits where it is small: voxels may measure nanometres."""
    return round(length, digits) if length >= 0.1 else float(f"{length:.{digits}g}")


def spacing_in_space(
    found: Fingerprint, *, patch_voxels: int, coarsest: float, share: float
) -> tuple[Spacing, str]:
    """nnU-Net's target spacing z, y, x, made coarser evenly where a patch would see too little, and why.

    Args:
        patch_voxels: of one patch.
        coarsest: how much coarser than the data's own the spacing may get.
        share: of a median scan that a patch should see.
    """
    spacings, shapes = np.asarray(found.spacings_zyx), np.asarray(found.shapes_zyx)
    target = np.median(spacings, 0)
    reason = "the median of the data, per axis"
    size = np.median(shapes, 0)
    worst = int(target.argmax())
    others = [a for a in range(3) if a != worst]
    if target[worst] > ANISOTROPY * target[others].max() and size[worst] * ANISOTROPY < min(
        size[others]
    ):
        tenth = float(np.percentile(spacings[:, worst], 10))
        target[worst] = max(tenth, float(target[others].max()))
        reason += "; the 10th percentile along the coarse axis"
    voxels = float(np.prod(found.median_shape_at(target)))
    if patch_voxels < share * voxels:
        factor = min((share * voxels / patch_voxels) ** (1 / 3), coarsest)
        # the finest axes give way first, so that voxels become more alike
        coarser = _coarser(target, factor)
        if not np.allclose(coarser, target):
            target = coarser
            reason += (
                f"; coarser, so that a patch of {patch_voxels} voxels sees more than "
                f"{patch_voxels / voxels:.0%} of a scan"
            )
    return (float(target[0]), float(target[1]), float(target[2])), reason


def _coarser(spacing: Any, factor: float) -> Any:
    """Spacing with voxels `factor`^3 times as large, the finest axes growing first and none past the coarsest."""
    out, volume = np.array(spacing, float), factor**3
    wanted = float(np.prod(out)) * volume
    for _ in range(200):
        if float(np.prod(out)) >= wanted * 0.999:
            break
        finest = out <= out.min() * 1.02
        out[finest] *= min((wanted / float(np.prod(out))) ** (1 / int(finest.sum())), 1.02)
    return out
