"""Overlap losses besides the soft Dice: generalised Dice and the Tversky losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctseg.losses import voxels
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
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    include_background: bool = True,
    complement: bool = True,
    smooth: float = 1e-10,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """1 - 2 sum_c w_c I_c / sum_c w_c (P_c + T_c) with w_c = 1 / T_c^2, the mean over samples.

    After Sudre et al. 2017. An absent class has the weight of the rarest class present; if all classes are absent, the
    loss is 0. Arguments as for `ctseg.losses.dice.dice`, and:

    Args:
        complement: whether a single output channel gets its complement as a second one, since the weights cancel out
            for one class alone (as in pytorch-3dunet).
        smooth: added to numerator and denominator, which are of the order of 1 / T.
        class_weights: factors of w_c.
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    sums = overlap_sums(logits, target, weight, mask)
    if complement and logits.shape[1] == 1 and target.is_floating_point():
        sums = _with_complement(sums, voxels.voxel_weights(logits, weight, mask), target)
    first = first_channel(logits, target, include_background)
    i, p, t = chosen(sums, batch=batch, first=first)
    weights = _inverse_squares(t)
    by_channel = voxels.channel_weights(logits, class_weights)
    if by_channel is not None:
        weights = weights * by_channel[first:]
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
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    include_background: bool = False,
    smooth: float = 1e-5,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """1 - (I + smooth) / (I + alpha FP + beta FN + smooth), averaged over channels.

    FP = P - I and FN = T - I (Salehi et al. 2017); alpha = beta = 0.5 is the soft Dice. Arguments as for
    `ctseg.losses.dice.dice`, and:

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives.
    """
    return focal_tversky(
        logits, target, weight=weight, mask=mask, alpha=alpha, beta=beta, gamma=1.0,
        include_background=include_background, smooth=smooth, batch=batch, class_weights=class_weights,
    )  # fmt: skip


LEAST = 1e-7
"""Smallest Tversky loss of which the root is taken; below it the root's slope would be unbounded."""


def focal_tversky(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    include_background: bool = False,
    smooth: float = 1e-5,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """The Tversky loss of each channel to the power of 1 / gamma, averaged (Abraham and Khan 2019).

    With gamma above 1 the gradient of nearly correct classes stays large. Arguments as for `tversky`.
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    first = first_channel(logits, target, include_background)
    i, p, t = chosen(overlap_sums(logits, target, weight, mask), batch=batch, first=first)
    wrong = alpha * (p - i) + beta * (t - i)
    loss = wrong / (i + wrong + smooth)  # 1 - index, without the cancellation
    if gamma != 1:
        loss = loss.clamp_min(LEAST).pow(1 / gamma)
    return channel_mean(loss, voxels.channel_weights(logits, class_weights), first)
