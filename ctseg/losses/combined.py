"""Sums of an overlap and a voxel-wise loss."""

from __future__ import annotations

import torch

from ctseg.losses import voxels
from ctseg.losses.config import BCEConfig, BCEDiceConfig, DiceCEConfig, DiceConfig, DiceTopKConfig
from ctseg.losses.cross_entropy import bce, ce_of_log_softmax
from ctseg.losses.dice import class_sums, dice, dice_of_sums, first_channel
from ctseg.losses.focal import topk_ce


def dice_ce(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: DiceCEConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`dice_weight` * dice + `ce_weight` * cross-entropy; both use the same softmax.

    Arguments as for `ctseg.losses.dice.dice`, with class indices [B, Z, Y, X] as target.
    """
    overlap, log_p, indices, weights = _dice_and_log_softmax(logits, target, config, weight, mask)
    entropy = ce_of_log_softmax(log_p, indices, weights, config.class_weights)
    return config.dice_weight * overlap + config.ce_weight * entropy


def dice_topk(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: DiceTopKConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `dice_ce`, but with the cross-entropy of only the worst `k` per cent of the batch's voxels (nnU-Net)."""
    overlap, log_p, indices, weights = _dice_and_log_softmax(logits, target, config, weight, mask)
    entropy = topk_ce(log_p, indices, weights, config.class_weights, share=config.k / 100)
    return config.dice_weight * overlap + config.ce_weight * entropy


def _dice_and_log_softmax(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: DiceConfig,
    weight: torch.Tensor | None,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The Dice loss, log-probabilities, target indices within 0..C-1 and voxel weights."""
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    weights = voxels.voxel_weights(logits, weight, mask)
    target = voxels.known_classes(target, mask)
    log_p = logits.log_softmax(1)
    overlap = dice_of_sums(
        class_sums(log_p.exp(), target, weights, squared=config.squared),
        smooth=config.smooth,
        batch=config.batch,
        by_channel=voxels.channel_weights(logits, config.class_weights),
        first=first_channel(logits, target, config.include_background),
    )
    return overlap, log_p, target, weights


def bce_dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: BCEDiceConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`alpha` * binary cross-entropy + `beta` * dice, for a float target [B, C, Z, Y, X]."""
    options = BCEConfig(
        pos_weight=config.pos_weight,
        reduction=config.reduction,
        class_weights=config.class_weights,
    )
    entropy = bce(logits, target, options, weight=weight, mask=mask)
    overlap = dice(logits, target, config, weight=weight, mask=mask)
    return config.alpha * entropy + config.beta * overlap
