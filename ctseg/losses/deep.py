"""Deep supervision: one loss over logits of several resolutions (Lee et al. 2015), weighted as in nnU-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn


def level_weights(levels: int) -> tuple[float, ...]:
    """1/2^i for level i and 0 for the last, normalised to a sum of 1; a single level has weight 1."""
    if levels == 1:
        return (1.0,)
    raw = [0.5**level for level in range(levels - 1)] + [0.0]
    return tuple(value / sum(raw) for value in raw)


def nearest(values: torch.Tensor, shape_zyx: Sequence[int]) -> torch.Tensor:
    """Samples the last three axes at the voxels nearest to the centres of a coarser grid, for any type."""
    for axis, size in zip((-3, -2, -1), shape_zyx, strict=True):
        length = values.shape[axis]
        if length != size:
            places = torch.arange(size, device=values.device)
            values = values.index_select(axis, (2 * places + 1) * length // (2 * size))
    return values


class DeepSupervision(nn.Module):
    """Wraps a loss so that it takes a tuple of logits, finest first, or a single tensor.

    Target, weight and mask come at full resolution and are downsampled (nearest) for each level.
    """

    def __init__(self, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self,
        logits: torch.Tensor | Sequence[torch.Tensor],
        target: torch.Tensor,
        *,
        weight: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The weighted sum of the levels' losses; see `level_weights`."""
        if isinstance(logits, torch.Tensor):
            return self.loss(logits, target, weight=weight, mask=mask)
        total = target.new_zeros((), dtype=torch.float32)
        for share, level in zip(level_weights(len(logits)), logits, strict=True):
            if share == 0:
                # a gradient of 0 instead of none: data-parallel training waits for every parameter
                total = total + 0 * level.float().mean()
                continue
            shape = level.shape[2:]
            total = total + share * self.loss(
                level,
                nearest(target, shape),
                weight=None if weight is None else nearest(weight, shape),
                mask=None if mask is None else nearest(mask, shape),
            )
        return total
