"""Cross-entropy over exclusive classes and over independent channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ctseg.losses.voxels import (
    channel_weights,
    check_shapes,
    full_precision,
    voxel_weights,
    weighted_mean,
)


def ce(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """Softmax cross-entropy, the mean over voxels weighted by class and voxel weights.

    Args:
        logits: [B, C, Z, Y, X].
        target: int64 [B, Z, Y, X] of class indices; anything where the mask is False.
        weight, mask: [B, Z, Y, X].
        class_weights: one number a class.
    """
    check_shapes(logits, target)
    logits = full_precision(logits)
    return ce_of_log_softmax(
        logits.log_softmax(1),
        known_classes(target, mask),
        voxel_weights(logits, weight, mask),
        class_weights,
    )


def ce_of_log_softmax(
    log_p: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None,
    class_weights: Sequence[float],
) -> torch.Tensor:
    """Cross-entropy from log-probabilities [B, C, ...] and targets that are all within 0 .. C-1."""
    by_class = channel_weights(log_p, class_weights)
    if weights is None:  # one fused pass
        return functional.nll_loss(log_p, target, by_class)
    if by_class is not None:
        weights = weights * by_class[target]
    return weighted_mean(functional.nll_loss(log_p, target, reduction="none"), weights)


def known_classes(target: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The target with 0 in place of whatever stands where the mask is False (-1, by convention)."""
    return target if mask is None else target.masked_fill(~mask.bool(), 0)


def bce(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """Sigmoid cross-entropy, the weighted mean over voxels and channels.

    Args:
        logits: [B, C, Z, Y, X].
        target: float [B, C, Z, Y, X], 0 to 1; anything where the mask is False.
        weight, mask: [B, Z, Y, X].
        class_weights: one number a channel.
    """
    check_shapes(logits, target)
    logits = full_precision(logits)
    target = target.to(logits.dtype)
    weights = voxel_weights(logits, weight, mask)
    by_channel = channel_weights(logits, class_weights)
    if weights is None and by_channel is None:
        return functional.binary_cross_entropy_with_logits(logits, target)
    values = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    every = torch.ones_like(values) if weights is None else weights[:, None].expand_as(values)
    if by_channel is not None:
        every = every * by_channel[:, None, None, None]
    return weighted_mean(values, every)
