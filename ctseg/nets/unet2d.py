"""`unet2d` and `residual_unet2d`: slice-wise U-Nets (Ronneberger et al. 2015, Isensee et al. 2021)."""

from __future__ import annotations

import torch
from torch import nn

from ctseg.nets.slicewise import fold, unfold
from ctseg.nets.slicewise_config import ResidualUNet2DConfig, UNet2DConfig
from ctseg.nets.unet import residual_unet3d, unet3d


class SliceWise(nn.Module):
    """Applies a network of volumes to each slice by itself.

    Slices go in as a batch of volumes one slice deep, so that normalisation covers one slice: the
    logits of a slice are the same whatever tile it lies in. Convolutions over one slice with a kernel of 1 along z
    cost what 2D ones do (measured on a CPU with AMX, in float32 and bfloat16).

    Args:
        net: from [N, C, 1, Y, X] to [N, K, 1, Y, X], or to a tuple of such, finest first.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """[B, C, Z, Y, X] to logits [B, K, Z, Y, X], or a tuple of them in deeply supervised training."""
        batch = x_bczyx.shape[0]
        output = self.net(fold(x_bczyx).unsqueeze(2))
        if isinstance(output, torch.Tensor):
            return unfold(output.squeeze(2), batch)
        return tuple(unfold(level.squeeze(2), batch) for level in output)


def unet2d(config: UNet2DConfig, *, in_channels: int, out_channels: int) -> nn.Module:
    """The U-Net of plain convolutions within slices."""
    return SliceWise(unet3d(config, in_channels=in_channels, out_channels=out_channels))


def residual_unet2d(
    config: ResidualUNet2DConfig, *, in_channels: int, out_channels: int
) -> nn.Module:
    """The U-Net with a residual encoder, within slices."""
    return SliceWise(residual_unet3d(config, in_channels=in_channels, out_channels=out_channels))
