"""The boundary loss: probabilities weighted by their distance to the true surface (Kervadec et al. 2019)."""

from __future__ import annotations

import torch

from ctseg.losses import voxels
from ctseg.losses.cldice import probabilities_and_target
from ctseg.losses.config import BoundaryConfig, GeneralizedDiceConfig
from ctseg.losses.dice import first_channel
from ctseg.losses.distance import signed_distance
from ctseg.losses.overlap import generalized_dice


def boundary(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: BoundaryConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`region_weight` * generalised Dice + `boundary_weight` * the mean of p * distance to the surface.

    The distance is negative inside the structure and positive outside (see `signed_distance`), so the boundary part
    may be negative. It is computed exactly, from the target, in voxels unless a spacing is given; the same spacing
    applies to every level of deep supervision. The generalised Dice always includes class 0.

    Args:
        logits: [B, C, Z, Y, X]; softmax for class indices, sigmoid for a float target.
        target: int64 [B, Z, Y, X] of class indices, or float [B, C, Z, Y, X], inside from 0.5 on; anything where
            the mask is False.
        weight, mask: [B, Z, Y, X]; voxels of weight 0 are neither inside nor outside a structure.
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    first = first_channel(logits, target, config.include_background)
    weights = voxels.voxel_weights(logits, weight, mask)
    p, t = probabilities_and_target(logits, target, mask)
    with torch.no_grad():
        known = None if weights is None else weights > 0
        far = signed_distance(t[:, first:] >= 0.5, known, spacing_zyx=config.spacing_zyx).to(
            p.dtype
        )
    by_channel = voxels.channel_weights(logits, config.class_weights)
    values = p[:, first:] * far
    every = voxels.spread_weights(
        values, weights, None if by_channel is None else by_channel[first:]
    )
    surface = voxels.weighted_mean(values, every, batch=config.batch)
    if config.region_weight == 0:
        return config.boundary_weight * surface
    options = GeneralizedDiceConfig(batch=config.batch, class_weights=config.class_weights)
    region = generalized_dice(logits, target, options, weight=weight, mask=mask)
    return config.region_weight * region + config.boundary_weight * surface
