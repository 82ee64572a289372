"""Losses that emphasise hard voxels: focal, and the highest fraction of a cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ctseg.losses import voxels
from ctseg.losses.config import FocalConfig
from ctseg.losses.shared_batch import everywhere


def focal(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: FocalConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """-(1 - p)^gamma log p of the true class's probability p, the mean over voxels (and channels).

    After Lin et al. 2017, eq. 5. With gamma = 0 it is `ce` for class indices and `bce` for a float target.

    Args:
        logits: [B, C, Z, Y, X]; softmax for class indices, sigmoid for a float target.
        target: int64 [B, Z, Y, X] of class indices, or float [B, C, Z, Y, X]; anything where the mask is False.
        weight, mask: [B, Z, Y, X].
        config: `alpha` weighs positive targets and 1 - `alpha` the others; for class indices 1 - `alpha` weighs the
            background and `alpha` every other class. It does not enter the mean's denominator, class weights do.
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    weights = voxels.voxel_weights(logits, weight, mask)
    by_channel = voxels.channel_weights(logits, config.class_weights)
    alpha, gamma, batch = config.alpha, config.gamma, config.batch
    if target.is_floating_point():
        target = voxels.known_values(target, mask).to(logits.dtype)
        # log(1 - p) of the true class's p, without overflow and without 0^gamma
        wrong = functional.logsigmoid(-logits * (2 * target - 1))
        values = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        values = (gamma * wrong).exp() * values
        if alpha is not None:
            values = values * (alpha * target + (1 - alpha) * (1 - target))
        return voxels.weighted_mean(
            values, voxels.spread_weights(values, weights, by_channel), batch=batch
        )
    target = voxels.known_classes(target, mask)
    minus_log_p = functional.nll_loss(logits.log_softmax(1), target, reduction="none")
    tiny = torch.finfo(logits.dtype).tiny
    values = (-torch.expm1(-minus_log_p)).clamp_min(tiny).pow(gamma) * minus_log_p
    if alpha is not None:
        values = values * torch.where(target == 0, 1 - alpha, alpha)
    if by_channel is not None:
        weights = by_channel[target] if weights is None else weights * by_channel[target]
    return voxels.weighted_mean(values, weights, batch=batch)


def topk_ce(
    log_p: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None,
    class_weights: Sequence[float],
    *,
    share: float,
) -> torch.Tensor:
    """The weighted mean of the highest cross-entropies of a batch (Wu et al. 2016; as in nnU-Net's TopKLoss).

    Args:
        log_p: log-probabilities [B, C, ...].
        target: indices within 0 .. C-1.
        weights: [B, ...]; voxels of weight 0 are neither ranked nor counted.
        share: fraction of the voxels that count, 0 to 1; at least one voxel is used.
    """
    values = functional.nll_loss(log_p, target, reduction="none").flatten()
    by_class = voxels.channel_weights(log_p, class_weights)
    every = torch.ones_like(values) if weights is None else weights.flatten()
    if by_class is not None:
        every = every * by_class[target.flatten()]
    ranked, first = everywhere(torch.where(every > 0, values.detach(), -torch.inf))
    most = max(1, int(ranked.numel() * share))
    # sorted, so that fewer can be used without waiting for the device
    hardest = ranked.topk(most).indices - first
    count = ((ranked > -torch.inf).sum() * share).int().clamp_min(1)
    rank = torch.arange(most, device=values.device)
    own = (hardest >= 0) & (hardest < values.numel())
    hardest = hardest.clamp(0, values.numel() - 1)
    return voxels.weighted_mean(values[hardest], every[hardest] * (rank < count) * own)
