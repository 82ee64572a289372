"""A transposed convolution, concatenation with a skip and the next convolution, computed as one sum.

A transposed convolution directly followed by a convolution equals one transposed convolution with a larger kernel:
for a stride of 2 and a kernel of 3 a kernel of 4, which costs 512 products for each voxel and output channel where
the two cost 928 (64 channels to 32 to 32). A convolution of concatenated channels is the sum of two convolutions, so
neither the upsampled nor the concatenated channels are stored.
Values are the same up to the order of rounding. Measured on a core with AVX512-BF16, the U-Net of nnU-Net's plan for
the hippocampus in bfloat16 takes 0.93 of the time forward and 0.91 of it for a training step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ctseg.nets.blocks import ConvNormAct, Upsample, has_hooks
from ctseg.nets.cpu import autocast, im2col, winograd

GAIN = 0.7
"""Largest ratio of products, fused to separate, at which fusing pays; the fused form also does more sums."""
BATCH = 2
"""Batch size assumed by the cost model, so that a sample's result never depends on the batch it is in."""


def is_faster(
    upsample: Upsample, level: nn.Module, below: torch.Tensor, skip: torch.Tensor
) -> bool:
    """Whether the fused form equals the modules' result up to rounding, and is faster.

    Args:
        level: the layers after the concatenation.
        below: [B, C, Z, Y, X], the features to upsample.
        skip: the encoder features that they are concatenated with.
    """
    block = level[0] if isinstance(level, nn.Sequential) else None
    up = upsample.conv
    if (
        not autocast.plain_cpu(below)
        or upsample.mode != "transposed"
        or not isinstance(up, nn.ConvTranspose3d)
        or not isinstance(block, ConvNormAct)
        or block.order[0] != "conv"
        or not (_usual(up) and _usual(block.conv))
        or any(map(has_hooks, (upsample, up, level, block, block.conv)))
    ):
        return False
    kind = autocast.kind_of(below)
    if kind not in (torch.float32, torch.float64) and (
        kind != torch.bfloat16 or autocast.has_amx()
    ):
        return False  # with AMX, memory takes the time rather than products
    kernel, stride, sizes = block.conv.kernel_size, up.stride, skip.shape[2:]
    if tuple(sizes) != tuple(n * s for n, s in zip(below.shape[2:], stride, strict=True)):
        return False
    # kernels for volumes smaller than this have been faulty on CPUs (see ctseg.nets.cpu.conv)
    if any(
        size < s + k - 1 or (s > 1 and size <= 2 * s)
        for size, s, k in zip(sizes, stride, kernel, strict=True)
    ):
        return False
    return _products(up, block.conv, skip) < GAIN


def _products(up: nn.ConvTranspose3d, conv: nn.Conv3d, skip: torch.Tensor) -> float:
    """Ratio of products, fused to separate, for the channels from below."""
    below, width, out = up.in_channels, up.out_channels, conv.out_channels
    voxels, taps = BATCH * math.prod(skip.shape[2:]), math.prod(conv.kernel_size)
    usual = voxels * width * (out * taps + below)
    reached = math.prod(
        (s + k - 1) / s for s, k in zip(up.stride, conv.kernel_size, strict=True)
    )  # voxels from below in the receptive field of one output voxel
    kernel = below * math.prod(up.stride) * width * out * taps
    return (voxels * below * out * reached + 2 * kernel) / usual


def _usual(conv: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    """Whether a convolution has the settings that the fused form supports."""
    if conv.groups != 1 or set(conv.dilation) != {1}:
        return False
    if isinstance(conv, nn.ConvTranspose3d):
        return (
            type(conv).forward is nn.ConvTranspose3d.forward
            and conv.kernel_size == conv.stride
            and not any(conv.padding)
            and not any(conv.output_padding)
        )
    return (
        type(conv).forward is nn.Conv3d.forward
        and set(conv.stride) == {1}
        and conv.padding_mode == "zeros"
        and all(k % 2 for k in conv.kernel_size)
        and conv.padding == tuple(k // 2 for k in conv.kernel_size)
    )


def fused_level(
    upsample: Upsample,
    level: nn.Module,
    below: torch.Tensor,
    skip: torch.Tensor,
    *,
    skip_first: bool = False,
) -> torch.Tensor | None:
    """`level` of the upsampled features and the skip, concatenated; None where the modules should compute it.

    Args:
        skip_first: whether the skip's channels come before those from below.
    """
    if not autocast.is_active() or not is_faster(upsample, level, below, skip):
        return None
    up = upsample.conv
    assert isinstance(level, nn.Sequential)
    assert isinstance(up, nn.ConvTranspose3d)
    first, *others = level
    assert isinstance(first, ConvNormAct)
    y = first.finish(convolve(up, first.conv, below, skip, skip_first=skip_first))
    for layer in others:
        y = layer(y)
    return y


def convolve(
    up: nn.ConvTranspose3d, conv: nn.Conv3d, below_bczyx: torch.Tensor, skip_bczyx: torch.Tensor,
    *, skip_first: bool = False,
) -> torch.Tensor:  # fmt: skip
    """`conv` of `up(below)` concatenated with the skip; [B, out, Z, Y, X].

    Args:
        skip_first: whether the skip's channels come before those from below.
    """
    width = up.out_channels
    rest = conv.in_channels - width
    if skip_first:
        of_skip, of_below = torch.split(conv.weight, [rest, width], 1)
    else:
        of_below, of_skip = torch.split(conv.weight, [width, rest], 1)
    kernel = _merge(up.weight, of_below, autocast.kind_of(below_bczyx))
    bias, border = conv.bias, None
    if up.bias is not None:
        with torch.autocast("cpu", enabled=False):
            table = _bias_table(of_below, up.bias)
            middle = table[table.shape[0] // 2, table.shape[1] // 2, table.shape[2] // 2]
            border = table - middle
            bias = middle if bias is None else bias + middle
    padding = [k // 2 for k in conv.kernel_size]
    if winograd.is_faster(skip_bczyx, of_skip, padding=padding):
        y = winograd.convolve(skip_bczyx, of_skip, bias)
    else:
        y = functional.conv3d(skip_bczyx, of_skip, bias, padding=padding)
    y += functional.conv_transpose3d(below_bczyx, kernel, None, up.stride, padding)
    return y if border is None else _add_at_border(y, border)


class _Merge(torch.autograd.Function):
    """The kernel of a transposed convolution that equals a transposed convolution followed by a convolution.

    From the kernels [C, width, sz, sy, sx] and [out, width, kz, ky, kx], [C, out, sz + kz - 1, sy + ky - 1,
    sx + kx - 1]: the sum over the width of the products of every pair of taps. Both gradients are
    matrix products, which take less time than those of the convolution that gives the result.
    """

    @staticmethod
    def forward(
        ctx: Any, first: torch.Tensor, then: torch.Tensor, kind: torch.dtype
    ) -> torch.Tensor:
        ctx.kinds = first.dtype, then.dtype
        first, then = first.to(kind), then.to(kind).flip(2, 3, 4)
        ctx.save_for_backward(first, then)
        padding = [s - 1 for s in first.shape[2:]]
        return functional.conv3d(then, first.flip(2, 3, 4), padding=padding).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        first, then = ctx.saved_tensors
        taps = then.shape[2:]
        # [C * taps of the first, taps of the second * out]
        met = im2col.input_windows(grad, taps, [1] * 3, [0] * 3)
        of_first = of_then = None
        if ctx.needs_input_grad[0]:
            of_first = met @ then.permute(2, 3, 4, 0, 1).flatten(0, 3)
            of_first = of_first.view(len(first), *first.shape[2:], -1).movedim(-1, 1)
            of_first = of_first.to(ctx.kinds[0])
        if ctx.needs_input_grad[1]:
            of_then = first.movedim(1, -1).flatten(0, 3).t() @ met
            of_then = of_then.view(-1, *taps, len(then)).movedim(-1, 0).flip(2, 3, 4)
            of_then = of_then.to(ctx.kinds[1])
        return of_first, of_then, None


_merge: Callable[..., torch.Tensor] = _Merge.apply


def _bias_table(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """What a bias before a convolution adds to its output: less where the kernel reaches into the padding.

    Returns:
        [kz, ky, kx, out]: for the first voxels of each axis, the inner ones, and the last ones.
    """
    table = torch.einsum("oczyx,c->zyxo", weight, bias)
    for axis in range(3):
        reach = table.shape[axis]
        place = torch.arange(reach)
        # of a kernel of 3: taps 1 and 2 at the first voxel, all inside, taps 0 and 1 at the last
        tap = place[:, None] + place - reach // 2
        inside = ((tap >= 0) & (tap < reach)).to(table.dtype)
        table = torch.tensordot(inside, table, ([1], [axis])).movedim(0, axis)
    return table


class _AddAtBorder(torch.autograd.Function):
    """Adds a table of values to the faces of a volume, in place; inner voxels keep their values."""

    @staticmethod
    def forward(ctx: Any, y_bczyx: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(y_bczyx)
        ctx.reaches, ctx.kind = table.shape, table.dtype
        for part, entry, rest in _faces(y_bczyx, table.shape[:3]):
            values = table[entry]
            for axis, places in enumerate(rest):
                values = values.index_select(axis, places)
            part += values
        return y_bczyx

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not ctx.needs_input_grad[1]:
            return grad, None
        table = grad.new_zeros(ctx.reaches, dtype=ctx.kind)
        for part, entry, rest in _faces(grad, ctx.reaches[:3]):
            values = part.sum((0, *range(1, part.ndim - 1 - len(rest))), dtype=ctx.kind)
            for axis, places in enumerate(rest):
                shape = list(values.shape)
                shape[axis] = table[entry].shape[axis]
                values = values.new_zeros(shape).index_add_(axis, places, values)
            table[entry] += values
        return grad, table


def _faces(
    volume_bczyx: torch.Tensor, reaches: Sequence[int]
) -> Iterator[tuple[torch.Tensor, tuple[int, ...], list[torch.Tensor]]]:
    """The parts of a volume within half a kernel of a face, each voxel in exactly one of them.

    Yields:
        The part [B, ..., channels], the entry of a table for it along the axes so far, and which entries of the
        table the voxels along each further axis take.
    """
    halves = [reach // 2 for reach in reaches]
    sizes = volume_bczyx.shape[2:]
    places = []
    for size, half in zip(sizes, halves, strict=True):
        place = torch.arange(size)
        places.append(place.clamp_max(half) + (place - (size - 1 - half)).clamp_min(0))
    inner = volume_bczyx.permute(0, 2, 3, 4, 1)
    entry: tuple[int, ...] = ()
    for axis, (size, half) in enumerate(zip(sizes, halves, strict=True)):
        for at in range(half):
            yield inner.select(axis + 1, at), (*entry, at), places[axis + 1 :]
            last = (*entry, 2 * half - at)
            yield inner.select(axis + 1, size - 1 - at), last, places[axis + 1 :]
        inner = inner.narrow(axis + 1, half, size - 2 * half)
        entry = (*entry, half)


_add_at_border: Callable[..., torch.Tensor] = _AddAtBorder.apply
