"""Sums of an overlap and a voxel-wise loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ctseg.losses import voxels
from ctseg.losses.cross_entropy import bce, ce_of_log_softmax
from ctseg.losses.dice import class_sums, dice, dice_of_sums, first_channel
from ctseg.losses.focal import topk_ce


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
    """`dice_weight` * dice + `ce_weight` * cross-entropy; both use the same softmax.

    Arguments as for `ctseg.losses.dice.dice`, with class indices [B, Z, Y, X] as target.
    """
    overlap, log_p, indices, weights = _dice_and_log_softmax(
        logits, target, weight, mask, include_background=include_background, squared=squared,
        smooth=smooth, batch=batch, class_weights=class_weights,
    )  # fmt: skip
    entropy = ce_of_log_softmax(log_p, indices, weights, class_weights)
    return dice_weight * overlap + ce_weight * entropy


def dice_topk(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    k: float = 10.0,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    include_background: bool = False,
    squared: bool = False,
    smooth: float = 1e-5,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """As `dice_ce`, but with the cross-entropy of only the worst `k` per cent of the batch's voxels (nnU-Net)."""
    overlap, log_p, indices, weights = _dice_and_log_softmax(
        logits, target, weight, mask, include_background=include_background, squared=squared,
        smooth=smooth, batch=batch, class_weights=class_weights,
    )  # fmt: skip
    entropy = topk_ce(log_p, indices, weights, class_weights, share=k / 100)
    return dice_weight * overlap + ce_weight * entropy


def _dice_and_log_softmax(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    mask: torch.Tensor | None,
    *,
    include_background: bool,
    squared: bool,
    smooth: float,
    batch: bool,
    class_weights: Sequence[float],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The Dice loss, log-probabilities, target indices within 0..C-1 and voxel weights."""
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    weights = voxels.voxel_weights(logits, weight, mask)
    target = voxels.known_classes(target, mask)
    log_p = logits.log_softmax(1)
    overlap = dice_of_sums(
        class_sums(log_p.exp(), target, weights, squared=squared),
        smooth=smooth,
        batch=batch,
        by_channel=voxels.channel_weights(logits, class_weights),
        first=first_channel(logits, target, include_background),
    )
    return overlap, log_p, target, weights


def bce_dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    pos_weight: Sequence[float] = (),
    reduction: Literal["mean", "sum"] = "mean",
    include_background: bool = False,
    squared: bool = False,
    smooth: float = 1e-5,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """`alpha` * binary cross-entropy + `beta` * dice, for a float target [B, C, Z, Y, X]."""
    entropy = bce(
        logits, target, weight=weight, mask=mask, class_weights=class_weights,
        pos_weight=pos_weight, reduction=reduction,
    )  # fmt: skip
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
