"""Centreline Dice: overlap of soft skeletons, for vessels and fibres (Shit et al. 2021)."""

from __future__ import annotations

import torch
from torch.nn import functional

from ctseg.losses import voxels
from ctseg.losses.config import CLDiceConfig, DiceConfig
from ctseg.losses.dice import dice, first_channel
from ctseg.losses.shared_batch import totals


def cldice(
    logits: torch.Tensor,
    target: torch.Tensor,
    config: CLDiceConfig,
    *,
    weight: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """(1 - alpha) soft Dice + alpha (1 - clDice), the mean over samples (Shit et al. 2021).

    clDice is the harmonic mean of the share of the predicted skeleton inside the target and of the target's
    skeleton inside the prediction. Both sums run over all channels, as in MONAI.

    Args:
        logits: [B, C, Z, Y, X]; softmax for class indices, sigmoid for a float target.
        target: int64 [B, Z, Y, X] of class indices, or float [B, C, Z, Y, X]; anything where the mask is False.
        weight, mask: [B, Z, Y, X]; voxels of weight 0 are background in both skeletons.
    """
    voxels.check_shapes(logits, target)
    logits = voxels.full_precision(logits)
    first = first_channel(logits, target, config.include_background)
    weights = voxels.voxel_weights(logits, weight, mask)
    p, t = probabilities_and_target(logits, target, mask)
    p, t = p[:, first:], t[:, first:]
    if weights is not None:
        counted = (weights > 0)[:, None]
        p, t = p * counted, t * counted
    with torch.no_grad():
        skeleton_t = soft_skeleton(t, config.iterations)
    skeleton_p = soft_skeleton(p, config.iterations)
    by_channel = voxels.channel_weights(logits, config.class_weights)

    def total(values: torch.Tensor) -> torch.Tensor:
        if weights is not None:
            values = values * weights[:, None]
        sums = values.sum((2, 3, 4))
        each = (sums if by_channel is None else sums * by_channel[first:]).sum(1)
        return totals(each.sum(0, keepdim=True))[0] if config.batch else each

    smooth = config.smooth
    precision = (total(skeleton_p * t) + smooth) / (total(skeleton_p) + smooth)
    sensitivity = (total(skeleton_t * p) + smooth) / (total(skeleton_t) + smooth)
    centreline = 1 - (2 * precision * sensitivity / (precision + sensitivity)).mean()
    if config.alpha == 1:
        return centreline
    options = DiceConfig(
        include_background=config.include_background,
        batch=config.batch,
        class_weights=config.class_weights,
    )
    overlap = dice(logits, target, options, weight=weight, mask=mask)
    return (1 - config.alpha) * overlap + config.alpha * centreline


def probabilities_and_target(
    logits: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, and the target as one map per channel, both [B, C, ...]; 0 where the mask is False."""
    if target.is_floating_point():
        return logits.sigmoid(), voxels.known_values(target, mask).to(logits.dtype)
    one_hot = torch.zeros_like(logits).scatter_(1, voxels.known_classes(target, mask)[:, None], 1)
    return logits.softmax(1), one_hot


def soft_skeleton(x: torch.Tensor, iterations: int) -> torch.Tensor:
    """The differentiable skeleton of maps [B, C, Z, Y, X] in 0..1 (Shit et al. 2021, algorithm 1).

    The skeleton is what an opening removes from the maps, from the maps eroded once, twice, and so on.
    """
    skeleton = functional.relu(x - _opened(x))
    for _ in range(iterations):
        x = _eroded(x)
        ridge = functional.relu(x - _opened(x))
        skeleton = skeleton + functional.relu(ridge - skeleton * ridge)
    return skeleton


def _eroded(x: torch.Tensor) -> torch.Tensor:
    """The smallest value among each voxel and its six neighbours."""
    y = -x
    lines = [
        functional.max_pool3d(y, size, 1, tuple(s // 2 for s in size))
        for size in ((3, 1, 1), (1, 3, 1), (1, 1, 3))
    ]
    return -torch.maximum(torch.maximum(lines[0], lines[1]), lines[2])


def _opened(x: torch.Tensor) -> torch.Tensor:
    """Erosion, then the largest value among each voxel and its 26 neighbours."""
    return functional.max_pool3d(_eroded(x), 3, 1, 1)
