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
"""Smallest fraction of a median scan that a patch should see; else the spacing is made coarser, within limits."""


def choose_spacing(
    fingerprint: Fingerprint, set_xyz: Spacing | None, budget: Budget, *, slicewise: bool
) -> tuple[Spacing, str]:
    """nnU-Net's target spacing z, y, x, made coarser evenly where a patch would see too little of a scan.

    Args:
        set_xyz: spacing that the user set; 0 keeps the spacing of each scan along that axis.
        slicewise: whether the network is slice-wise; then the context within slices decides, and slices stay in place.
    """
    if set_xyz is None:
        find = spacing_in_plane if slicewise else spacing_in_space
        return find(
            fingerprint, patch_voxels=budget.patch_voxels, coarsest=budget.coarsest, share=CONTEXT
        )
    medians = fingerprint.median_spacing_zyx
    z, y, x = (chosen or median for chosen, median in zip(set_xyz[::-1], medians, strict=True))
    if not any(set_xyz):
        return (z, y, x), "the median of the data; no scan is resampled"
    return (z, y, x), "as asked"


def rounded_mm(length: float, digits: int) -> float:
    """A length rounded to that many decimals, or digits for small lengths: voxels may measure nanometres."""
    return round(length, digits) if length >= 0.1 else float(f"{length:.{digits}g}")


def spacing_in_space(
    fingerprint: Fingerprint, *, patch_voxels: int, coarsest: float, share: float
) -> tuple[Spacing, str]:
    """nnU-Net's target spacing z, y, x, made coarser evenly where a patch would see too little, and why.

    Args:
        patch_voxels: voxels of one patch.
        coarsest: largest factor by which the spacing may exceed that of the data.
        share: fraction of a median scan that a patch should see.
    """
    spacings, shapes = np.asarray(fingerprint.spacings_zyx), np.asarray(fingerprint.shapes_zyx)
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
    voxels = float(np.prod(fingerprint.median_shape_at(target)))
    if patch_voxels < share * voxels:
        factor = min((share * voxels / patch_voxels) ** (1 / 3), coarsest)
        # the finest axes grow first, so that voxels become more isotropic
        coarser = _coarser(target, factor)
        if not np.allclose(coarser, target):
            target = coarser
            reason += (
                f"; coarser, so that a patch of {patch_voxels} voxels sees more than "
                f"{patch_voxels / voxels:.0%} of a scan"
            )
    return (float(target[0]), float(target[1]), float(target[2])), reason


def _coarser(spacing: Any, factor: float) -> Any:
    """The spacing of voxels `factor`^3 times as large; the finest axes grow first, none beyond the coarsest."""
    out, volume = np.array(spacing, float), factor**3
    target_volume = float(np.prod(out)) * volume
    for _ in range(200):
        if float(np.prod(out)) >= target_volume * 0.999:
            break
        finest = out <= out.min() * 1.02
        out[finest] *= min((target_volume / float(np.prod(out))) ** (1 / int(finest.sum())), 1.02)
    return out
