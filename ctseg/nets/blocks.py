"""Building blocks of U-Nets: convolution blocks, pooling and upsampling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ctseg.nets.layer_order import Activation, LayerOrder, Role
from ctseg.nets.norm import InstanceNorm, make_norm
from ctseg.nets.options import UNetOptions
from ctseg.specs import Zyx

LEAKY_SLOPE = 0.01
NO_STRIDE: Zyx = (1, 1, 1)


def make_activation(kind: Activation, slope: float = LEAKY_SLOPE) -> nn.Module:
    """The activation of that name, in place where autograd allows it.

    Args:
        slope: slope of the leaky ReLU below zero.
    """
    if kind == "leaky_relu":
        return nn.LeakyReLU(slope, inplace=True)
    if kind == "relu":
        return nn.ReLU(inplace=True)
    if kind == "elu":
        return nn.ELU(inplace=True)
    return nn.GELU() if kind == "gelu" else nn.SiLU(inplace=True)


def _make_dropout(layers: LayerOrder, probability: float) -> nn.Module:
    if not probability or "dropout" not in layers.roles:
        return nn.Identity()
    return nn.Dropout3d(probability) if layers.dropped == "channels" else nn.Dropout(probability)


class ConvNormAct(nn.Module):
    """Convolution, dropout, normalisation and activation, in the order that the options give.

    Args:
        stride: downsampling of the convolution.
        activate: False leaves the activation out, as at the end of a residual branch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: UNetOptions,
        *,
        kernel: Zyx,
        stride: Zyx = NO_STRIDE,
        activate: bool = True,
    ) -> None:
        super().__init__()
        layers = config.layers
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=config.bias)
        self.dropout = _make_dropout(layers, config.dropout)
        self.norm = make_norm(
            layers.norm,
            in_channels if layers.norm_first else out_channels,
            groups=config.norm_groups,
            eps=config.norm_eps,
        )
        self.activation = (
            make_activation(layers.activation, config.leaky_slope) if activate else nn.Identity()
        )
        self.order = tuple(
            role for role in layers.roles if not isinstance(getattr(self, role), nn.Identity)
        )

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z/stride, Y/stride, X/stride]."""
        return self._run(self.order, x_bczyx)

    def finish(self, y_bczyx: torch.Tensor) -> torch.Tensor:
        """Apply the layers that follow a convolution which was computed elsewhere."""
        return self._run(self.order[1:], y_bczyx)

    def _run(self, roles: Sequence[Role], y: torch.Tensor) -> torch.Tensor:
        fused = self._fused()
        for role in roles[:-2] if fused else roles:
            y = getattr(self, role)(y)
        return y if fused is None else fused(y)

    def _fused(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Instance norm and leaky ReLU in one call, if the block ends with them; it overwrites its input."""
        norm, activation = self.norm, self.activation
        if (
            self.order[0] != "conv"
            or self.order[-2:] != ("norm", "activation")
            or not isinstance(norm, InstanceNorm)
            or type(activation) is not nn.LeakyReLU
            or any(map(has_hooks, (self.conv, self.dropout, norm, activation)))
        ):
            return None
        return partial(norm.activated, slope=activation.negative_slope)


def has_hooks(module: nn.Module) -> bool:
    """Whether forward or backward hooks are registered on the module."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def conv_level(
    widths: Sequence[int],
    config: UNetOptions,
    *,
    kernel: Zyx,
    stride: Zyx = NO_STRIDE,
    dropouts: tuple[float, ...] = (),
) -> nn.Sequential:
    """A level of plain convolutions; the first one changes the resolution.

    Args:
        widths: channels before the first convolution and after each.
        dropouts: probability of each convolution; empty for that of the options.
    """
    level = nn.Sequential()
    for index, (before, after) in enumerate(pairwise(widths)):
        options = config
        if dropouts and "dropout" in config.layers.roles:
            options = replace(config, dropout=dropouts[index])
        step = NO_STRIDE if index else stride
        level.append(ConvNormAct(before, after, options, kernel=kernel, stride=step))
    return level


def average_pool(x_bczyx: torch.Tensor, stride: Zyx) -> torch.Tensor:
    """Means over blocks of `stride` voxels, in the type of the input (PyTorch's CPU pooling needs float32)."""
    half_on_cpu = x_bczyx.device.type == "cpu" and x_bczyx.dtype in (torch.bfloat16, torch.float16)
    y = functional.avg_pool3d(x_bczyx.float() if half_on_cpu else x_bczyx, stride, stride)
    return y.to(x_bczyx.dtype)


class Pool(nn.Module):
    """Max or average pooling over blocks of `stride` voxels, in the type of the input."""

    def __init__(self, kind: Literal["max", "avg"], stride: Zyx) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, C, Z, Y, X] to [B, C, Z/stride, Y/stride, X/stride]."""
        if self.kind == "avg":
            return average_pool(x_bczyx, self.stride)
        with torch.autocast(x_bczyx.device.type, enabled=False):  # it would copy to float32
            return functional.max_pool3d(x_bczyx, self.stride, self.stride)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.stride}"


def with_pooling(level: nn.Sequential, config: UNetOptions, stride: Zyx) -> nn.Sequential:
    """The level after the pooling that the options ask for; the level's layers keep their names."""
    if config.downsampling == "strided" or stride == NO_STRIDE:
        return level
    pool = Pool(config.downsampling, stride)
    return nn.Sequential(OrderedDict([("pool", pool), *level.named_children()]))


class Upsample(nn.Module):
    """One level up: a transposed convolution, or a projection and interpolation.

    Args:
        out_channels: channels of the result; equal to `in_channels` if the options keep the width.
    """

    def __init__(
        self, in_channels: int, out_channels: int, config: UNetOptions, *, stride: Zyx
    ) -> None:
        super().__init__()
        self.stride = stride
        self.mode = config.upsampling
        self.padding = (0, 0, 0)
        self.conv: nn.Conv3d | nn.ConvTranspose3d | None
        if self.mode == "transposed":
            self.conv = nn.ConvTranspose3d(
                in_channels, out_channels, stride, stride, bias=config.bias
            )
        elif self.mode == "transposed_overlap":
            z, y, x = (1 if s == 1 else 3 for s in stride)
            self.padding = (z // 2, y // 2, x // 2)
            self.conv = nn.ConvTranspose3d(
                in_channels, out_channels, (z, y, x), stride, self.padding, bias=config.bias
            )
        elif config.upsampling_keeps_width:
            self.conv = None
        else:
            self.conv = nn.Conv3d(in_channels, out_channels, 1, bias=config.bias)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, in, Z, Y, X] to [B, out, Z*stride, Y*stride, X*stride]."""
        conv, y = self.conv, x_bczyx
        if isinstance(conv, nn.ConvTranspose3d) and conv.bias is not None and _adds_bias_itself(y):
            y = functional.conv_transpose3d(y, conv.weight, None, self.stride, self.padding)
            y += conv.bias.to(y.dtype)[:, None, None, None]
        elif conv is not None:
            y = conv(y)
        if self.mode == "transposed":
            return y
        if self.mode == "transposed_overlap":
            size = [n * s for n, s in zip(x_bczyx.shape[2:], self.stride, strict=True)]
            return functional.interpolate(y, size=size)
        factors = [float(s) for s in self.stride]
        return functional.interpolate(y, scale_factor=factors, mode=self.mode)


def _adds_bias_itself(x: torch.Tensor) -> bool:
    """Whether a transposed convolution should add its bias itself.

    On the CPU the gradient of that bias takes several times as long as that of the weight
    (8 ms against 1 for 64 to 32 channels and 40 x 56 x 40 voxels); a plain sum is quick.
    """
    return x.device.type == "cpu" and torch.is_grad_enabled()
