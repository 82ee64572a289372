"""Residual blocks, with squeeze and excitation if the options ask for it."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from ctseg.nets.blocks import NO_STRIDE, ConvNormAct, average_pool, make_activation
from ctseg.nets.config import ResidualUNet3DConfig, ResidualUNetSE3DConfig
from ctseg.nets.norm import make_norm
from ctseg.nets.options import UNetOptions
from ctseg.nets.se import make_excitation
from ctseg.specs import Zyx

PROJECTED_SLOPE = 0.1
"""Slope of the leaky ReLU that ends a projected block: the one of pytorch-3dunet, so that its weights fit."""


class Shortcut(nn.Module):
    """The shortcut of a residual block: average pooling where it is strided, then a projection.

    Pooling and projection run as one strided convolution whose weight is constant within a
    block of voxels: the same values, in the type of autocast (PyTorch's pooling is float32 only).
    """

    def __init__(
        self, in_channels: int, out_channels: int, config: UNetOptions, *, stride: Zyx
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv, self.norm = None, None
        if in_channels != out_channels:
            self.conv = nn.Conv3d(in_channels, out_channels, 1, bias=False)
            self.norm = make_norm(
                config.layers.norm, out_channels, groups=config.norm_groups, eps=config.norm_eps
            )

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z/stride, Y/stride, X/stride]."""
        if self.conv is not None and self.norm is not None:
            weight = self.conv.weight.expand(-1, -1, *self.stride) / math.prod(self.stride)
            y: torch.Tensor = self.norm(functional.conv3d(x_bczyx, weight, stride=self.stride))
            return y
        return average_pool(x_bczyx, self.stride) if max(self.stride) > 1 else x_bczyx


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016); a strided shortcut pools, then projects.

    Dropout follows both convolutions; nnU-Net, whose plans never set dropout, has it after the first alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: ResidualUNet3DConfig,
        *,
        kernel: Zyx,
        stride: Zyx = NO_STRIDE,
    ) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, config, kernel=kernel, stride=stride)
        self.second = ConvNormAct(out_channels, out_channels, config, kernel=kernel, activate=False)
        self.shortcut = Shortcut(in_channels, out_channels, config, stride=stride)
        self.activation = make_activation(config.layers.activation, config.leaky_slope)
        self.excitation, self.excite_branch = _excitation(out_channels, config)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z/stride, Y/stride, X/stride]."""
        y: torch.Tensor = self.second(self.first(x_bczyx))
        if self.excitation is not None and self.excite_branch:
            y = self.excitation(y)
        y += self.shortcut(x_bczyx)  # in place: no layer's backward needs the old values
        y = self.activation(y)
        return y if self.excitation is None or self.excite_branch else self.excitation(y)


class ProjectedBlock(nn.Module):
    """A 1x1x1 convolution where the width changes, then two convolutions added to its output.

    The block of pytorch-3dunet (after Lee et al. 2017, arXiv:1706.00120).
    """

    def __init__(
        self, in_channels: int, out_channels: int, config: ResidualUNet3DConfig, *, kernel: Zyx
    ) -> None:
        super().__init__()
        self.projection = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv3d(in_channels, out_channels, 1)
        )
        self.first = ConvNormAct(out_channels, out_channels, config, kernel=kernel)
        self.second = ConvNormAct(out_channels, out_channels, config, kernel=kernel, activate=False)
        self.activation = make_activation(config.layers.activation, PROJECTED_SLOPE)
        self.excitation, self.excite_branch = _excitation(out_channels, config)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z, Y, X]."""
        projected = self.projection(x_bczyx)
        y: torch.Tensor = self.second(self.first(projected))
        if self.excitation is not None and self.excite_branch:
            y = self.excitation(y)
        y += projected
        y = self.activation(y)
        return y if self.excitation is None or self.excite_branch else self.excitation(y)


def _excitation(channels: int, config: ResidualUNet3DConfig) -> tuple[nn.Module | None, bool]:
    """The excitation that the options ask for, and whether it is on the branch."""
    if not isinstance(config, ResidualUNetSE3DConfig):
        return None, False
    layer = make_excitation(config.excitation, channels, reduction=config.excitation_reduction)
    return layer, config.excitation_place == "branch"


def residual_level(
    in_channels: int,
    out_channels: int,
    config: ResidualUNet3DConfig,
    *,
    blocks: int,
    kernel: Zyx,
    stride: Zyx = NO_STRIDE,
) -> nn.Sequential:
    """A level of residual blocks; the first one changes the width and, for basic blocks, the resolution."""
    layers: list[nn.Module] = []
    for index in range(blocks):
        before = in_channels if index == 0 else out_channels
        if config.block == "projected":
            layers.append(ProjectedBlock(before, out_channels, config, kernel=kernel))
        else:
            block_stride = stride if index == 0 else NO_STRIDE
            layers.append(
                ResidualBlock(before, out_channels, config, kernel=kernel, stride=block_stride)
            )
    return nn.Sequential(*layers)
