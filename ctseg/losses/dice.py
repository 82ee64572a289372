"""Soft Dice, for exclusive classes and for independent channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctseg.losses.cross_entropy import known_classes
from ctseg.losses.voxels import (
    channel_weights,
    check_shapes,
    full_precision,
    voxel_weights,
)

Sums = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def dice(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    include_background: bool = False,
    squared: bool = False,
    smooth: float = 1e-5,
    batch: bool = False,
    class_weights: Sequence[float] = (),
) -> torch.Tensor:
    """1 - (2 I + smooth) / (P + T + smooth), averaged over channels.

    I, P and T are the sums over voxels of p t, p and t (of p p and t t with `squared`),
    after Milletari et al. 2016 and Drozdzal et al. 2016.

    Args:
        logits: [B, C, Z, Y, X]; softmax for class indices, sigmoid for a float target.
        target: int64 [B, Z, Y, X] of class indices, or float [B, C, Z, Y, X].
        weight, mask: [B, Z, Y, X].
        include_background: whether class 0 counts, for class indices.
        smooth: keeps a class that is nowhere finite.
        batch: sums over the whole batch rather than per sample.
        class_weights: one number a channel.
    """
    check_shapes(logits, target)
    logits = full_precision(logits)
    weights = voxel_weights(logits, weight, mask)
    classes = not target.is_floating_point()
    if classes:
        sums = class_sums(logits.softmax(1), known_classes(target, mask), weights, squared=squared)
    else:
        sums = channel_sums(
            logits.sigmoid(), target.to(logits.dtype), mask, weights, squared=squared
        )
    return dice_of_sums(
        sums,
        smooth=smooth,
        batch=batch,
        by_channel=channel_weights(logits, class_weights),
        first=0 if include_background or not classes or logits.shape[1] == 1 else 1,
    )


def class_sums(
    p: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None, *, squared: bool
) -> Sums:
    """I, P and T of each sample and class [B, C], without making the target one-hot."""
    batch, classes = p.shape[:2]
    index = target.flatten(1)
    hit = p.gather(1, target[:, None]).flatten(1)
    weight = torch.ones_like(hit) if weights is None else weights.flatten(1)
    if weights is not None:
        hit = hit * weight
    zeros = p.new_zeros(batch, classes)
    return (
        zeros.scatter_add(1, index, hit),
        _sum_over_voxels(p, weights, squared=squared),
        zeros.scatter_add(1, index, weight),
    )


def channel_sums(
    p: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    weights: torch.Tensor | None,
    *,
    squared: bool,
) -> Sums:
    """I, P and T of each sample and channel [B, C], from a target shaped as the probabilities."""
    if mask is not None:
        target = target.masked_fill(~mask.bool()[:, None], 0)  # NaN, by convention, where ignored
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
    i, p, t = (s[:, first:].sum(0, keepdim=True) if batch else s[:, first:] for s in sums)
    score = (2 * i + smooth) / (p + t + smooth)
    if by_channel is None:
        return 1 - score.mean()
    by_channel = by_channel[first:]
    total = by_channel.sum().clamp_min(torch.finfo(score.dtype).tiny)
    return 1 - (score.mean(0) * by_channel).sum() / total
