"""Normalisation layers for mixed precision and channels-last tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ctseg.nets.layer_order import Norm

Grads = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None, None]


class _ChannelsLastInstanceNorm(torch.autograd.Function):
    """Instance norm of a channels-last tensor on the CPU, computed as one batch norm per sample, then leaky ReLU.

    PyTorch's own instance norm copies such a tensor to planes and back, in both directions, which
    takes longer than the convolution before it. Its batch norm has vectorised channels-last kernels
    that keep statistics in float32, and for a single sample the two are the same. Measured on
    2 cores with AMX, [2, 32, 40, 56, 40] in bfloat16: forward 1.6 against 8.7 ms, with leaky ReLU
    and backward 11 against 27 ms; group norm with a group a channel takes 88 ms.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
        slope: float | None,
    ) -> torch.Tensor:
        y = torch.empty_like(x)
        mean, rstd = _normalise(x, weight, bias, eps, slope, out=y)
        ctx.save_for_backward(x, weight, mean, rstd, *(() if slope is None else (y,)))
        ctx.eps, ctx.slope = eps, slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Grads:
        x, weight, mean, rstd, *rest = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        # sample by sample into one result: the less memory is touched, the more of it stays in the cache
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] and len(x) > 1 else None
        before = torch.empty_like(grad[:1]) if rest else None
        dweights, dbiases = [], []
        for i in range(len(x)):
            one = slice(i, i + 1)
            g = grad[one]
            if before is not None:
                g = torch.ops.aten.leaky_relu_backward.grad_input(
                    g, rest[0][one], ctx.slope, True, grad_input=before
                )
            part, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
                g, x[one], weight, None, None, mean[i], rstd[i], True, ctx.eps,
                list(ctx.needs_input_grad[:3]),
            )  # fmt: skip
            dweights.append(dweight)
            dbiases.append(dbias)
            if dx is not None:
                dx[one] = part
            elif ctx.needs_input_grad[0]:
                dx = part
        return (
            dx,
            torch.stack(dweights).sum(0) if ctx.needs_input_grad[1] else None,
            torch.stack(dbiases).sum(0) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


_channels_last_instance_norm: Callable[..., torch.Tensor] = _ChannelsLastInstanceNorm.apply


def _normalise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, slope: float | None,
    *, out: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Normalise each sample into `out`, which may be `x`; returns mean and 1 / deviation of its channels."""
    mean, rstd = (weight.new_empty(x.shape[:2]) for _ in range(2))
    for i in range(len(x)):  # written in place, so that no copy joins the samples
        one = out[i : i + 1]
        torch.native_batch_norm(
            x[i : i + 1], weight, bias, None, None, True, 0.0, eps, out=(one, mean[i], rstd[i])
        )  # fmt: skip
        if slope is not None:  # while the sample is in the cache
            functional.leaky_relu_(one, slope)
    return mean, rstd


def _channels_last_on_cpu(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last_3d)


class InstanceNorm(nn.Module):
    """Scales each channel of each sample to mean 0 and variance 1, then applies weight and bias.

    Values and parameter names are those of `nn.InstanceNorm3d(channels, affine=True)`; statistics are float32
    under mixed precision. A single voxel gives the bias, where PyTorch raises an error.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, C, Z, Y, X] to the same shape and type; on the CPU also to the same memory format."""
        if _channels_last_on_cpu(x_bczyx) and not torch.compiler.is_compiling():
            return _channels_last_instance_norm(x_bczyx, self.weight, self.bias, self.eps, None)
        # not by `functional`, which refuses a single voxel: the deepest level of the smallest tile has one
        return torch.instance_norm(
            x_bczyx, self.weight, self.bias, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled
        )  # fmt: skip

    def activated(self, x_bczyx: torch.Tensor, slope: float) -> torch.Tensor:
        """Normalised, then through a leaky ReLU of that slope.

        On the CPU without gradients it overwrites a channels-last x, which saves an allocation.
        """
        if not _channels_last_on_cpu(x_bczyx) or torch.compiler.is_compiling():
            return functional.leaky_relu_(self(x_bczyx), slope)
        if torch.is_grad_enabled():
            return _channels_last_instance_norm(x_bczyx, self.weight, self.bias, self.eps, slope)
        _normalise(x_bczyx, self.weight, self.bias, self.eps, slope, out=x_bczyx)
        return x_bczyx

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class GroupNorm(nn.GroupNorm):
    """PyTorch's group norm with two faults mended.

    With one voxel and one channel a group it gives the bias, where PyTorch raises an error. And PyTorch's backward
    crashes the process for a channels-last tensor on the CPU that needs no gradient itself, such as a network's input
    (seen in 2.13): such a tensor is made contiguous first.
    """

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, C, Z, Y, X] to the same shape."""
        if torch.is_grad_enabled() and not x_bczyx.requires_grad and _channels_last_on_cpu(x_bczyx):
            # clone, since contiguous() keeps the strides of a single channel
            x_bczyx = x_bczyx.clone(memory_format=torch.contiguous_format)
        return torch.group_norm(x_bczyx, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(kind: Norm, channels: int, *, groups: int, eps: float = 1e-5) -> nn.Module:
    """The normalisation layer of that name for `channels` channels.

    Args:
        groups: number of groups of group norm: one where there are fewer channels, as in pytorch-3dunet; the greatest
            common divisor where they do not divide the channels.
        eps: added to the variance.
    """
    if kind == "instance":
        return InstanceNorm(channels, eps)
    if kind == "batch":
        return nn.BatchNorm3d(channels, eps)
    if kind == "group":
        return GroupNorm(math.gcd(groups, channels) if groups <= channels else 1, channels, eps)
    return nn.Identity()
