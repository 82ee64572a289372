"""The pieces that U-Nets are made of: convolution blocks, residual blocks and upsampling."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from ctseg.nets.config import Activation, ResidualUNet3DConfig, UNet3DConfig
from ctseg.nets.norm import make_norm
from ctseg.specs import Zyx

LEAKY_SLOPE = 0.01


def make_activation(kind: Activation) -> nn.Module:
    """The activation of that name; in place where autograd allows it."""
    if kind == "leaky_relu":
        return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)
    if kind == "relu":
        return nn.ReLU(inplace=True)
    if kind == "elu":
        return nn.ELU(inplace=True)
    return nn.GELU() if kind == "gelu" else nn.SiLU(inplace=True)


class ConvNormAct(nn.Module):
    """Convolution, dropout, normalisation, activation, in this order.

    Args:
        stride: downsampling of the convolution.
        activate: False leaves the activation out, as at the end of a residual branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: UNet3DConfig | ResidualUNet3DConfig,
        *,
        kernel: Zyx,
        stride: Zyx = (1, 1, 1),
        activate: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=config.bias)
        self.dropout = nn.Dropout3d(config.dropout) if config.dropout else nn.Identity()
        self.norm = make_norm(config.norm, out_channels, groups=config.norm_groups)
        self.activation = make_activation(config.activation) if activate else nn.Identity()

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z/stride, Y/stride, X/stride]."""
        y: torch.Tensor = self.activation(self.norm(self.dropout(self.conv(x_bczyx))))
        return y


class Shortcut(nn.Module):
    """The way around a residual branch: average pooling where it is strided, then a projection.

    Pooling and projection are done as one strided convolution whose weight is constant within a
    block of voxels: the same values, in the type that autocast chose (pooling is float32 only).
    """

    def __init__(
        self, in_channels: int, out_channels: int, config: ResidualUNet3DConfig, *, stride: Zyx
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv, self.norm = None, None
        if in_channels != out_channels:
            self.conv = nn.Conv3d(in_channels, out_channels, 1, bias=False)
            self.norm = make_norm(config.norm, out_channels, groups=config.norm_groups)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z/stride, Y/stride, X/stride]."""
        if self.conv is not None and self.norm is not None:
            weight = self.conv.weight.expand(-1, -1, *self.stride) / math.prod(self.stride)
            y: torch.Tensor = self.norm(functional.conv3d(x_bczyx, weight, stride=self.stride))
            return y
        if max(self.stride) > 1:
            pooled = functional.avg_pool3d(x_bczyx, self.stride, self.stride)
            return pooled.to(x_bczyx.dtype)
        return x_bczyx


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016); a strided one pools, then projects."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: ResidualUNet3DConfig,
        *,
        kernel: Zyx,
        stride: Zyx = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.first = ConvNormAct(in_channels, out_channels, config, kernel=kernel, stride=stride)
        self.second = ConvNormAct(out_channels, out_channels, config, kernel=kernel, activate=False)
        self.shortcut = Shortcut(in_channels, out_channels, config, stride=stride)
        self.activation = make_activation(config.activation)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z/stride, Y/stride, X/stride]."""
        y: torch.Tensor = self.second(self.first(x_bczyx))
        y += self.shortcut(x_bczyx)  # in place: no layer's backward needs what it overwrites
        z: torch.Tensor = self.activation(y)
        return z


class Upsample(nn.Module):
    """One level up: a transposed convolution, or a projection and trilinear interpolation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: UNet3DConfig | ResidualUNet3DConfig,
        *,
        stride: Zyx,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.trilinear = config.upsampling == "trilinear"
        self.conv: nn.Conv3d | nn.ConvTranspose3d
        if self.trilinear:
            self.conv = nn.Conv3d(in_channels, out_channels, 1, bias=config.bias)
        else:
            self.conv = nn.ConvTranspose3d(
                in_channels, out_channels, stride, stride, bias=config.bias
            )

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z*stride, Y*stride, X*stride]."""
        bias = self.conv.bias
        if self.trilinear or bias is None or not _bias_apart(x_bczyx):
            y: torch.Tensor = self.conv(x_bczyx)
        else:
            y = functional.conv_transpose3d(x_bczyx, self.conv.weight, None, self.stride)
            y += bias.to(y.dtype)[:, None, None, None]
        if self.trilinear:
            factors = [float(s) for s in self.stride]
            y = functional.interpolate(y, scale_factor=factors, mode="trilinear")
        return y


def _bias_apart(x: torch.Tensor) -> bool:
    """Whether a transposed convolution should add its bias itself.

    On the CPU the gradient of that bias takes several times as long as that of the weight
    (8 ms against 1 for 64 to 32 channels and 40 x 56 x 40 voxels), a plain sum does not.
    """
    return x.device.type == "cpu" and torch.is_grad_enabled()
