"""The boundary loss: probabilities weighted by their distance to the true surface (Kervadec et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctseg.losses import voxels
from ctseg.losses.cldice import probabilities_and_target
from ctseg.losses.dice import first_channel
from ctseg.losses.distance import signed_distance
from ctseg.losses.overlap import generalized_dice


def boundary(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    boundary_weight: float = 0.01,
    region_weight: float = 1.0,
    spacing_zyx: Sequence[float] = (1.0, 1.0, 1.0),
    include_background: bool = False,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """`region_weight` * generalised Dice + `boundary_weight` * the mean of p * distance to the surface.

    The distance is negative inside the structure and positive outside (see `signed_distance`), so the boundary part
    may be negative. It is computed exactly, from the target, in voxels unless a spacing is given.

    Args:
        logits: [B, C, Z, Y, X]; softmax for class indices, sigmoid for a float target.
        target: int64 [B, Z, Y, X] of class indices, or float [B, C, Z, Y, X], inside from 0.5 on; anything where
            the mask is False.
        weight, mask: [B, Z, Y, X]; voxels of weight 0 are neither inside nor outside a structure.
        spacing_zyx: voxel size, for distances in mm; the same numbers apply to every level of deep supervision.
        include_background: whether the surface of class 0 counts, for class indices; the generalised Dice always
            includes class 0.
        batch: one mean and one Dice over the whole batch rather than the mean over samples.
        class_weights: one number per channel.
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    first = first_channel(logits, target, include_background)
    weights = voxels.voxel_weights(logits, weight, mask)
    p, t = probabilities_and_target(logits, target, mask)
    with torch.no_grad():
        known = None if weights is None else weights > 0
        far = signed_distance(t[:, first:] >= 0.5, known, spacing_zyx=spacing_zyx).to(p.dtype)
    by_channel = voxels.channel_weights(logits, class_weights)
    values = p[:, first:] * far
    every = voxels.spread_weights(
        values, weights, None if by_channel is None else by_channel[first:]
    )
    surface = voxels.weighted_mean(values, every, batch=batch)
    if region_weight == 0:
        return boundary_weight * surface
    region = generalized_dice(
        logits, target, weight=weight, mask=mask, batch=batch, class_weights=class_weights
    )
    return region_weight * region + boundary_weight * surface
