"""Overlap losses besides the soft Dice: generalised Dice and the Tversky losses."""

from __future__ import annotations

import torch

from ctseg.losses import voxels
from ctseg.losses.config import FocalTverskyConfig, GeneralizedDiceConfig, TverskyConfig
from ctseg.losses.dice import (
    Sums,
    channel_mean,
    chosen,
    first_channel,
    overlap_sums,
)


def generalized_dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: GeneralizedDiceConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """1 - 2 sum_c w_c I_c / sum_c w_c (P_c + T_c) with w_c = 1 / T_c^2, the mean over samples.

    After Sudre et al. 2017. An absent class has the weight of the rarest class present; if all classes are absent, the
    loss is 0. With `complement`, a single output channel gets its complement as a second one, since the weights
    cancel out for one class alone (as in pytorch-3dunet). Class weights are factors of w_c. Arguments as for
    `ctseg.losses.dice.dice`.
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    sums = overlap_sums(logits, target, weight, mask)
    if config.complement and logits.shape[1] == 1 and target.is_floating_point():
        sums = _with_complement(sums, voxels.voxel_weights(logits, weight, mask), target)
    first = first_channel(logits, target, config.include_background)
    i, p, t = chosen(sums, batch=config.batch, first=first)
    weights = _inverse_squares(t)
    by_channel = voxels.channel_weights(logits, config.class_weights)
    if by_channel is not None:
        weights = weights * by_channel[first:]
    smooth = config.smooth
    score = (2 * (weights * i).sum(1) + smooth) / ((weights * (p + t)).sum(1) + smooth)
    return 1 - score.mean()


def _with_complement(sums: Sums, weights: torch.Tensor | None, target: torch.Tensor) -> Sums:
    """I, P and T of a channel and of its complement, [B, 2] from [B, 1]."""
    i, p, t = sums
    count = target[0, 0].numel() if weights is None else weights.sum((1, 2, 3))[:, None]
    pairs = (i, count - p - t + i), (p, count - p), (t, count - t)
    one, two, three = (torch.cat(pair, 1) for pair in pairs)
    return one, two, three


def _inverse_squares(t: torch.Tensor) -> torch.Tensor:
    """1 / T^2 [B, C]; where T is 0, the largest value of the sample's other classes, or 0 without any."""
    t = t.detach()
    weights = torch.where(t > 0, 1 / t.clamp_min(torch.finfo(t.dtype).eps).square(), 0)
    return torch.where(t > 0, weights, weights.amax(1, keepdim=True))


def tversky(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: TverskyConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """1 - (I + smooth) / (I + alpha FP + beta FN + smooth), averaged over channels.

    FP = P - I and FN = T - I (Salehi et al. 2017); alpha = beta = 0.5 is the soft Dice. Arguments as for
    `ctseg.losses.dice.dice`.
    """
    return _tversky(logits, target, config, weight, mask)


def focal_tversky(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: FocalTverskyConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The Tversky loss of each channel to the power of 1 / gamma, averaged (Abraham and Khan 2019).

    With gamma above 1 the gradient of nearly correct classes stays large. Arguments as for `tversky`.
    """
    return _tversky(logits, target, config, weight, mask, gamma=config.gamma)


LEAST = 1e-7
"""Smallest Tversky loss of which the root is taken; below it the root's slope would be unbounded."""


def _tversky(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: TverskyConfig,
    weight: torch.Tensor | None,
    mask: torch.Tensor | None,
    gamma: float = 1.0,
) -> torch.Tensor:
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    first = first_channel(logits, target, config.include_background)
    i, p, t = chosen(overlap_sums(logits, target, weight, mask), batch=config.batch, first=first)
    wrong = config.alpha * (p - i) + config.beta * (t - i)
    loss = wrong / (i + wrong + config.smooth)  # 1 - index, without the cancellation
    if gamma != 1:
        loss = loss.clamp_min(LEAST).pow(1 / gamma)
    return channel_mean(loss, voxels.channel_weights(logits, config.class_weights), first)
