"""Convolutions of small volumes that compute the gradient of their kernel as one matrix product.

The inputs of each result are laid side by side, as in Caffe (Jia and others, arXiv:1408.5093); the gradient of
the kernel is then one product of two matrices. At the deepest levels of a U-Net, where there are more taps than
voxels, that takes about half the time of oneDNN's own in bfloat16 without AMX; for more voxels it takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ctseg.nets.cpu import autocast

VOXELS = 512
"""Most results, over all samples."""
WEIGHTS = 27 * 128 * 128
"""Fewest values in the kernel."""


def is_faster(
    x: torch.Tensor, weight: torch.Tensor, *, padding: Sequence[int], stride: Sequence[int]
) -> bool:
    """Whether the kernel needs a gradient and this form computes it faster.

    Args:
        x: [B, C, Z, Y, X].
        weight: [out, C, kz, ky, kx].
    """
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and autocast.plain_cpu(x)
        and autocast.kind_of(x) == torch.bfloat16
        and not autocast.has_amx()
        and weight.numel() >= WEIGHTS
        and x.is_contiguous(memory_format=torch.channels_last_3d)
        and len(x) * math.prod(_results(x, weight, stride, padding)) <= VOXELS
    )


def _results(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Iterator[int]:
    """The number of results along each axis."""
    for size, k, s, p in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True):
        yield (size + 2 * p - k) // s + 1


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
    *, stride: Sequence[int], padding: Sequence[int],
) -> torch.Tensor:  # fmt: skip
    """The convolution of x, padded by zeros, in the type of autocast if it is on.

    Args:
        x: [B, C, Z, Y, X].
        weight: [out, C, kz, ky, kx].

    Returns:
        [B, out, ..., ..., ...].
    """
    how = _Convolution(list(stride), list(padding), autocast.kind_of(x))
    return _convolve(x, weight, bias, how)


class _Convolution(NamedTuple):
    """Stride and padding along z, y, x, and the type that is computed in."""

    stride: list[int]
    padding: list[int]
    kind: torch.dtype


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        how: _Convolution,
    ) -> torch.Tensor:
        stride, padding, kind = how
        ctx.of_x, ctx.of_weight = x.dtype, weight.dtype
        ctx.of_bias = None if bias is None else bias.dtype
        x = x.to(kind)
        taps = weight.to(kind, memory_format=torch.channels_last_3d)
        ctx.save_for_backward(x, taps)
        ctx.stride, ctx.padding = stride, padding
        shift = None if bias is None else bias.to(kind)
        return torch.convolution(x, taps, shift, stride, padding, [1] * 3, False, [0] * 3, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, taps = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        of_x = of_weight = of_bias = None
        if for_x:
            of_x, _, _ = torch.ops.aten.convolution_backward(
                grad, x, taps, [len(taps)], ctx.stride, ctx.padding, [1] * 3, False, [0] * 3, 1,
                [True, False, False],
            )  # fmt: skip
            of_x = of_x.to(ctx.of_x)
        if for_weight:
            columns = input_windows(x, taps.shape[2:], ctx.stride, ctx.padding)
            product = grad.movedim(1, -1).flatten(0, 3).t() @ columns
            of_weight = product.view(len(taps), *taps.shape[2:], -1).movedim(-1, 1)
            of_weight = of_weight.to(ctx.of_weight)
        if for_bias:
            of_bias = grad.sum((0, 2, 3, 4), dtype=ctx.of_bias)
        return of_x, of_weight, of_bias, None


_convolve: Callable[..., torch.Tensor] = _Convolve.apply


def input_windows(
    x: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor:
    """The inputs of each result of a convolution, one row a result.

    Args:
        x: [B, C, Z, Y, X].

    Returns:
        [results of all samples, kz * ky * kx * C].
    """
    z, y, x_ = padding
    windows = functional.pad(x.movedim(1, -1), (0, 0, x_, x_, y, y, z, z))
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), 1):
        windows = windows.unfold(axis, k, s)
    return windows.movedim(4, -1).flatten(0, 3).flatten(1)
