"""Losses of the task `regression`: predicted values against float targets, without an activation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from ctseg.errors import BadInput
from ctseg.losses import voxels
from ctseg.losses.config import CrossEntropyConfig, SmoothL1Config, WeightedSmoothL1Config

Difference = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mse(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: CrossEntropyConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean of the squared difference, over voxels and channels.

    Args:
        logits: predicted values [B, C, Z, Y, X].
        target: float [B, C, Z, Y, X]; anything, including NaN, where the mask is False.
        weight, mask: [B, Z, Y, X].
    """
    return _mean(lambda x, y: (x - y).square(), logits, target, config, weight, mask)


def l1(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: CrossEntropyConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean of the absolute difference; arguments as for `mse`."""
    return _mean(lambda x, y: (x - y).abs(), logits, target, config, weight, mask)


def smooth_l1(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: SmoothL1Config,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """d^2 / (2 beta) where the difference d is below `beta`, |d| - beta / 2 beyond (Girshick 2015, eq. 3).

    Arguments as for `mse`; `beta` has the unit of the target in training.
    """

    def difference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.smooth_l1_loss(x, y, reduction="none", beta=config.beta)

    return _mean(difference, logits, target, config, weight, mask)


def weighted_smooth_l1(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: WeightedSmoothL1Config,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`smooth_l1` times `factor` where the target is below a threshold (or, with `below` False, at and above it).

    The factor does not enter the mean's denominator, as in pytorch-3dunet. Arguments as for `smooth_l1`.
    """

    def difference(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        values = functional.smooth_l1_loss(x, y, reduction="none", beta=config.beta)
        return torch.where((y < config.threshold) == config.below, values * config.factor, values)

    return _mean(difference, logits, target, config, weight, mask)


def _mean(
    difference: Difference,
    logits: torch.Tensor,
    target: torch.Tensor,
    config: CrossEntropyConfig,
    weight: torch.Tensor | None,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    if not target.is_floating_point():
        raise BadInput(
            f"A regression target must be floating point, not {target.dtype}.",
            hint="Pass target.float(), in the shape of the prediction",
        )
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    target = voxels.known_values(target, mask).to(logits.dtype)
    values = difference(logits, target)
    weights = voxels.voxel_weights(logits, weight, mask)
    every = voxels.spread_weights(
        values, weights, voxels.channel_weights(logits, config.class_weights)
    )
    return voxels.weighted_mean(values, every, batch=config.batch)
