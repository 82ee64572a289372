"""Slices of volumes as a batch, for slice-wise networks. Channels-last volumes are folded without a copy."""

from __future__ import annotations

import torch


def fold(x_bczyx: torch.Tensor) -> torch.Tensor:
    """[B, C, Z, Y, X] to slices [B*Z, C, Y, X]."""
    return x_bczyx.transpose(1, 2).flatten(0, 1)


def unfold(y_ncyx: torch.Tensor, batch: int) -> torch.Tensor:
    """Slices [B*Z, C, Y, X] back to [B, C, Z, Y, X]."""
    return y_ncyx.view(batch, -1, *y_ncyx.shape[1:]).transpose(1, 2)


def with_neighbours(x_bczyx: torch.Tensor, context: int) -> torch.Tensor:
    """Each slice with its neighbours as channels (2.5D); beyond the ends the first or last slice is repeated.

    Args:
        x_bczyx: [B, C, Z, Y, X].
        context: neighbouring slices on either side.

    Returns:
        [B, C * (2 * context + 1), Z, Y, X]: for each channel of the scan its slices in order of z.
    """
    if not context:
        return x_bczyx
    depth = x_bczyx.shape[2]
    last = torch.channels_last_3d
    layout = last if x_bczyx.is_contiguous(memory_format=last) else torch.contiguous_format
    places = torch.arange(depth, device=x_bczyx.device)
    shifted = [
        x_bczyx.index_select(2, (places + offset).clamp(0, depth - 1))
        for offset in range(-context, context + 1)
    ]
    return torch.stack(shifted, 2).flatten(1, 2).contiguous(memory_format=layout)
