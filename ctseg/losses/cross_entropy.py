"""Cross-entropy over exclusive classes and over independent channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ctseg.losses import voxels
from ctseg.losses.config import BCEConfig, CrossEntropyConfig
from ctseg.losses.shared_batch import totals


def ce(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: CrossEntropyConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax cross-entropy, the mean over voxels weighted by class and voxel weights.

    Args:
        logits: [B, C, Z, Y, X].
        target: int64 [B, Z, Y, X] of class indices; anything where the mask is False.
        weight, mask: [B, Z, Y, X].
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    return ce_of_log_softmax(
        logits.log_softmax(1),
        voxels.known_classes(target, mask),
        voxels.voxel_weights(logits, weight, mask),
        config.class_weights,
        batch=config.batch,
    )


def ce_of_log_softmax(
    log_p: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None,
    class_weights: Sequence[float],
    *,
    batch: bool = True,
) -> torch.Tensor:
    """Cross-entropy from log-probabilities [B, C, ...] and target indices within 0 .. C-1."""
    by_class = voxels.channel_weights(log_p, class_weights)
    if weights is None and by_class is None and batch:  # one fused pass
        return functional.nll_loss(log_p, target)
    if by_class is not None:  # torch's own weighted mean is NaN where all weights are 0
        weights = by_class[target] if weights is None else weights * by_class[target]
    return voxels.weighted_mean(
        functional.nll_loss(log_p, target, reduction="none"), weights, batch=batch
    )


RAREST = 1e-6
"""Smallest fraction of all probability with which `wce` computes the weight of a class."""


def wce(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: CrossEntropyConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax cross-entropy weighted by w_c = sum (1 - p_c) / sum p_c, constant in the gradient.

    The sums run over the voxels of the batch that count; p_c is the predicted probability of class c
    (Sudre et al. 2017; as in pytorch-3dunet). Arguments as for `ce`; `class_weights` multiply w_c, and
    `batch=False` computes weights and mean per sample.
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    weights = voxels.voxel_weights(logits, weight, mask)
    log_p = logits.log_softmax(1)
    target = voxels.known_classes(target, mask)
    by_class = inverse_shares(log_p.detach().exp(), weights, batch=config.batch)
    fixed = voxels.channel_weights(logits, config.class_weights)
    if fixed is not None:
        by_class = by_class * fixed
    by_voxel = by_class.expand(len(target), -1).gather(1, target.flatten(1)).view_as(target)
    by_voxel = by_voxel if weights is None else by_voxel * weights
    return voxels.weighted_mean(
        functional.nll_loss(log_p, target, reduction="none"), by_voxel, batch=config.batch
    )


def inverse_shares(
    p: torch.Tensor, weights: torch.Tensor | None, *, batch: bool = True
) -> torch.Tensor:
    """sum (1 - p_c) / sum p_c from probabilities [B, C, ...]: [1, C] of the batch or [B, C] of each sample."""
    over = (0, 2, 3, 4) if batch else (2, 3, 4)
    q = 1 - p
    if weights is not None:
        p, q = p * weights[:, None], q * weights[:, None]
    inside, outside = p.sum(over), q.sum(over)
    if batch:
        inside, outside = totals(inside, outside)
    least = (RAREST * (inside + outside)).clamp_min(torch.finfo(p.dtype).tiny)
    shares = outside / torch.maximum(inside, least)
    return shares[None] if batch else shares


def bce(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: BCEConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sigmoid cross-entropy, the weighted mean over voxels and channels.

    Args:
        logits: [B, C, Z, Y, X].
        target: float [B, C, Z, Y, X], 0 to 1; anything where the mask is False.
        weight, mask: [B, Z, Y, X].
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    target = voxels.known_values(target, mask).to(logits.dtype)
    positive = list(config.pos_weight) * (logits.shape[1] if len(config.pos_weight) == 1 else 1)
    factor = voxels.channel_weights(logits, positive, what="pos_weight")
    weights = voxels.voxel_weights(logits, weight, mask)
    by_channel = voxels.channel_weights(logits, config.class_weights)
    values = functional.binary_cross_entropy_with_logits(
        logits,
        target,
        pos_weight=None if factor is None else factor[:, None, None, None],
        reduction="none",
    )
    every = voxels.spread_weights(values, weights, by_channel)
    if config.reduction == "sum":
        return totals(values.sum() if every is None else (values * every).sum())[0]
    return voxels.weighted_mean(values, every, batch=config.batch)
