"""Soft Dice for exclusive classes and independent channels, and the sums that all overlap losses use."""

from __future__ import annotations

import torch

from ctseg.losses import voxels
from ctseg.losses.config import DiceConfig
from ctseg.losses.shared_batch import totals

Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: DiceConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """1 - (2 I + smooth) / (P + T + smooth), averaged over channels.

    I, P and T are the sums over voxels of p t, p and t (of p p and t t with `squared`),
    after Milletari et al. 2016 and Drozdzal et al. 2016.

    Args:
        logits: [B, C, Z, Y, X]; softmax for class indices, sigmoid for a float target.
        target: int64 [B, Z, Y, X] of class indices, or float [B, C, Z, Y, X]; anything where the mask is False.
        weight, mask: [B, Z, Y, X].
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    return dice_of_sums(
        overlap_sums(logits, target, weight, mask, squared=config.squared),
        smooth=config.smooth,
        batch=config.batch,
        by_channel=voxels.channel_weights(logits, config.class_weights),
        first=first_channel(logits, target, config.include_background),
    )


def first_channel(logits: torch.Tensor, target: torch.Tensor, include_background: bool) -> int:
    """The first channel that counts: 1 for class indices without the background, else 0."""
    exclusive = not target.is_floating_point() and logits.shape[1] > 1
    return 1 if exclusive and not include_background else 0


def overlap_sums(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    mask: torch.Tensor | None,
    *,
    squared: bool = False,
) -> Sums:
    """I, P and T of each sample and channel [B, C], from logits, in full precision; see `dice`."""
    weights = voxels.voxel_weights(logits, weight, mask)
    if target.is_floating_point():
        target = target.to(logits.dtype)
        return channel_sums(logits.sigmoid(), target, mask, weights, squared=squared)
    return class_sums(
        logits.softmax(1), voxels.known_classes(target, mask), weights, squared=squared
    )


def class_sums(
    p: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None, *, squared: bool
) -> Sums:
    """I, P and T of each sample and class [B, C]; the target is never made one-hot."""
    batch, classes, slices = p.shape[:3]
    index = target.flatten(
        2
    )  # slice by slice: a single running sum over millions of voxels loses digits
    hit = p.gather(1, target[:, None])[:, 0].flatten(2)
    weight = torch.ones_like(hit) if weights is None else weights.flatten(2)
    if weights is not None:
        hit = hit * weight
    zeros = p.new_zeros(batch, slices, classes)
    return (
        zeros.scatter_add(2, index, hit).sum(1),
        _sum_over_voxels(p, weights, squared=squared),
        zeros.scatter_add(2, index, weight).sum(1),
    )


def channel_sums(
    p: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    weights: torch.Tensor | None,
    *,
    squared: bool,
) -> Sums:
    """I, P and T of each sample and channel [B, C], from a target of the same shape as the probabilities."""
    target = voxels.known_values(target, mask)
    weighted = target if weights is None else target * weights[:, None]
    return (
        (p * weighted).sum((2, 3, 4)),
        _sum_over_voxels(p, weights, squared=squared),
        (weighted * target if squared else weighted).sum((2, 3, 4)),
    )


def _sum_over_voxels(
    p: torch.Tensor, weights: torch.Tensor | None, *, squared: bool
) -> torch.Tensor:
    values = p * p if squared else p
    if weights is not None:
        values = values * weights[:, None]
    return values.sum((2, 3, 4))


def dice_of_sums(
    sums: Sums, *, smooth: float, batch: bool, by_channel: torch.Tensor | None, first: int
) -> torch.Tensor:
    """The loss from I, P and T [B, C] over the channels from `first` on."""
    i, p, t = chosen(sums, batch=batch, first=first)
    return 1 - channel_mean((2 * i + smooth) / (p + t + smooth), by_channel, first)


def chosen(sums: Sums, *, batch: bool, first: int) -> Sums:
    """The sums of the channels from `first` on, added up over samples (of all processes) if `batch` is set."""
    i, p, t = (s[:, first:] for s in sums)
    if batch:
        i, p, t = totals(*(s.sum(0, keepdim=True) for s in (i, p, t)))
    return i, p, t


def channel_mean(
    score: torch.Tensor, by_channel: torch.Tensor | None, first: int = 0
) -> torch.Tensor:
    """The mean over samples and channels [B, C - first], weighted by channel [C]."""
    if by_channel is None:
        return score.mean()
    by_channel = by_channel[first:]
    total = by_channel.sum().clamp_min(torch.finfo(score.dtype).tiny)
    return (score.mean(0) * by_channel).sum() / total
