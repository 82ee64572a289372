"""Voxel weights, masks and shape checks that all losses use. Everything is float32 or better."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctseg.errors import BadInput
from ctseg.losses.shared_batch import totals


def full_precision(logits: torch.Tensor) -> torch.Tensor:
    """Logits in float32 (float64 stays): half precision cannot hold sums over millions of voxels."""
    return logits if logits.dtype == torch.float64 else logits.float()


def check_shapes(logits: torch.Tensor, target: torch.Tensor) -> None:
    """Refuse a target that is neither indices [B, Z, Y, X] nor values [B, C, Z, Y, X]."""
    expected = logits.shape if target.is_floating_point() else _without_channels(logits)
    if target.shape != expected:
        raise BadInput(
            f"The target has shape {tuple(target.shape)} and type {target.dtype}; logits of shape "
            f"{tuple(logits.shape)} need {tuple(expected)}.",
            hint="Class indices are int64 [B, Z, Y, X]; other targets float [B, C, Z, Y, X]",
        )


def _without_channels(logits: torch.Tensor) -> torch.Size:
    return torch.Size((logits.shape[0], *logits.shape[2:]))


def voxel_weights(
    logits: torch.Tensor, weight: torch.Tensor | None, mask: torch.Tensor | None
) -> torch.Tensor | None:
    """Weight times mask [B, Z, Y, X] in the precision of the logits; None if both are None.

    Raises:
        BadInput: another shape, which torch would broadcast silently.
    """
    for name, tensor in (("weight", weight), ("mask", mask)):
        if tensor is not None and tensor.shape != _without_channels(logits):
            raise BadInput(
                f"The {name} has shape {tuple(tensor.shape)}; logits of shape {tuple(logits.shape)} need "
                f"{tuple(_without_channels(logits))}.",
                hint=f"One {name} serves all channels: [B, Z, Y, X]",
            )
    if weight is None and mask is None:
        return None
    if weight is None or mask is None:
        product = mask if weight is None else weight
        assert product is not None
        return product.to(logits.dtype)
    return weight.to(logits.dtype) * mask.to(logits.dtype)


def known_classes(target: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Class indices, with 0 where the mask is False (by convention such voxels hold -1)."""
    return target if mask is None else target.masked_fill(~mask.bool(), 0)


def known_values(target: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A float target [B, C, ...], with 0 where the mask is False (such voxels often hold NaN)."""
    return target if mask is None else target.masked_fill(~mask.bool()[:, None], 0)


def channel_weights(
    logits: torch.Tensor, weights: Sequence[float], *, what: str = "class_weights"
) -> torch.Tensor | None:
    """The weight of each channel as a tensor [C]; None if all are equal.

    Raises:
        BadInput: the number of weights is not that of the channels.
    """
    if not weights:
        return None
    if len(weights) != logits.shape[1]:
        raise BadInput(
            f"{what} has {len(weights)} numbers for {logits.shape[1]} output channels.",
            hint="Give one number per output channel, the background included",
        )
    return torch.tensor(weights, dtype=logits.dtype, device=logits.device)


def weighted_mean(
    values: torch.Tensor, weights: torch.Tensor | None, *, batch: bool = True
) -> torch.Tensor:
    """The mean of values [B, ...] with weights of the same shape; 0 where all weights are 0.

    Args:
        batch: one mean over everything; else the mean of the samples' means, leaving out samples without weight.
    """
    if weights is None:
        return values.mean()
    # masked values may be infinite, and 0 * inf is NaN
    weighted = torch.where(weights > 0, values * weights, values.new_zeros(()))
    tiny = torch.finfo(values.dtype).tiny
    if batch:
        value, weight = totals(weighted.sum(), weights.sum())
        return value / weight.clamp_min(tiny)
    total = weights.flatten(1).sum(1)
    means = weighted.flatten(1).sum(1) / total.clamp_min(tiny)
    value, counted = totals(means.sum(), (total > 0).sum().to(means.dtype))
    return value / counted.clamp_min(1)


def spread_weights(
    values: torch.Tensor, weights: torch.Tensor | None, by_channel: torch.Tensor | None
) -> torch.Tensor | None:
    """Voxel weights [B, ...] and channel weights [C] as one tensor of the values' shape [B, C, ...]."""
    if weights is None and by_channel is None:
        return None
    every = torch.ones_like(values) if weights is None else weights[:, None].expand_as(values)
    return every if by_channel is None else every * by_channel[:, None, None, None]
