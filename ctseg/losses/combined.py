"""Sums of an overlap and a voxel-wise loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctseg.losses.cross_entropy import bce, ce_of_log_softmax, known_classes
from ctseg.losses.dice import class_sums, dice, dice_of_sums
from ctseg.losses.voxels import (
    channel_weights,
    check_shapes,
    full_precision,
    voxel_weights,
)


def dice_ce(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    include_background: bool = False,
    squared: bool = False,
    smooth: float = 1e-5,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """`dice_weight` * dice + `ce_weight` * cross-entropy; both share one softmax.

    Arguments as in `ctseg.losses.dice.dice`, with class indices [B, Z, Y, X] as target.
    """
    check_shapes(logits, target)
    logits = full_precision(logits)
    weights = voxel_weights(logits, weight, mask)
    target = known_classes(target, mask)
    log_p = logits.log_softmax(1)
    overlap = dice_of_sums(
        class_sums(log_p.exp(), target, weights, squared=squared),
        smooth=smooth,
        batch=batch,
        by_channel=channel_weights(logits, class_weights),
        first=0 if include_background or logits.shape[1] == 1 else 1,
    )
    entropy = ce_of_log_softmax(log_p, target, weights, class_weights)
    return dice_weight * overlap + ce_weight * entropy


def bce_dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    include_background: bool = False,
    squared: bool = False,
    smooth: float = 1e-5,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """`alpha` * binary cross-entropy + `beta` * dice, for a float target [B, C, Z, Y, X]."""
    entropy = bce(logits, target, weight=weight, mask=mask, class_weights=class_weights)
    overlap = dice(
        logits,
        target,
        weight=weight,
        mask=mask,
        include_background=include_background,
        squared=squared,
        smooth=smooth,
        batch=batch,
        class_weights=class_weights,
    )
    return alpha * entropy + beta * overlap
