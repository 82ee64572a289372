"""Squeeze and excitation: features weighted by channel or by voxel."""

from __future__ import annotations

import torch
from torch import nn

from ctseg.nets.config import Excitation


class ChannelExcitation(nn.Module):
    """Multiplies each channel by a weight from 0 to 1, computed from the means of all channels (Hu et al. 2018).

    Args:
        reduction: factor by which the channels shrink between the two linear layers.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.down = nn.Linear(channels, narrow)
        self.up = nn.Linear(narrow, channels)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, C, Z, Y, X] to the same shape and type."""
        mean = x_bczyx.mean(
            (2, 3, 4), dtype=torch.float32
        )  # half precision loses digits over many voxels
        weight: torch.Tensor = self.up(self.down(mean).relu()).sigmoid().to(x_bczyx.dtype)
        return x_bczyx * weight[:, :, None, None, None]


class SpatialExcitation(nn.Module):
    """Multiplies each voxel by a weight from 0 to 1, computed from its own features (Roy et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 1, 1)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, C, Z, Y, X] to the same shape and type."""
        weight: torch.Tensor = self.conv(x_bczyx).sigmoid().to(x_bczyx.dtype)
        return x_bczyx * weight


class ConcurrentExcitation(nn.Module):
    """The larger of channel and spatial excitation, voxel by voxel (Roy et al. 2018, scSE)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.channel = ChannelExcitation(channels, reduction)
        self.spatial = SpatialExcitation(channels)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, C, Z, Y, X] to the same shape and type."""
        return torch.maximum(self.channel(x_bczyx), self.spatial(x_bczyx))


def make_excitation(kind: Excitation, channels: int, *, reduction: int) -> nn.Module:
    """The excitation of that name."""
    if kind == "channel":
        return ChannelExcitation(channels, reduction)
    if kind == "spatial":
        return SpatialExcitation(channels)
    return ConcurrentExcitation(channels, reduction)
