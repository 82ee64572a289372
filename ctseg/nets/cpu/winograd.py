"""Convolutions with three taps that need two thirds of the products, for CPUs whose products take the time.

Those are all in float32, and those without AMX in bfloat16.

Along one axis, two neighbouring results of the taps (g0, g1, g2) on the values (a, b, c, d) are

    m0 + m1 + m2   and   m1 - m2 + m3,   where
    m0 = (a - c) g0,   m1 = (b + c) (g0 + g1 + g2) / 2,   m2 = (c - b) (g0 - g1 + g2) / 2,   m3 = (b - d) (-g2):

four products where the plain sums take six. This is F(2, 3) of Winograd (Arithmetic Complexity of Computations,
1980), which Lavin and Gray brought to networks (arXiv:1509.09308). Each of the four is a convolution over the other
axes; gradients take the same steps in reverse. Differences and sums of values are rounded to bfloat16 once more, so a
result is about twice as far from the exact one as that of the usual kernel, both near the rounding of the result
itself (`tests/nets/cpu/test_winograd.py`). In float32 a training step of `unet3d` with 24 to 192 channels takes 0.80
of the time on a core with AVX2; predictions save more by `winograd_fours`. `python -m benchmarks networks` measures
both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ctseg.nets.cpu import autocast, onednn, winograd_fours
from ctseg.nets.memory_layout import CHANNELS_LAST

CHANNELS = {torch.bfloat16: 16, torch.float32: 8}
"""Smallest in * out / (in + out): sums cost per channel, products per pair of channels."""
VOXELS = 1000
"""Fewest voxels of one sample; the taps are combined on each call, which costs as much as this many voxels."""
SLAB = 4 * 2**20
"""Bytes per thread of one of the four mixtures in work at a time, so that they stay in the cache."""
THREADS = 4
"""Most threads for which slabs grow; three or four slabs are held besides, which the estimate of memory includes."""


def is_faster(
    x: torch.Tensor, weight: torch.Tensor, *, padding: Sequence[int], stride: Sequence[int] = (1,)
) -> bool:
    """Whether `convolve` equals the usual convolution up to rounding, and is faster.

    The answer does not depend on the batch size, so that a sample's result never depends on the batch it is in.

    Args:
        x: [B, C, Z, Y, X] or [B, C, Y, X].
        weight: [out, C, kz, ky, kx] or [out, C, ky, kx].
    """
    layout = CHANNELS_LAST.get(x.ndim)
    return (
        layout is not None
        and autocast.plain_cpu(x)
        and _products_take_the_time(autocast.kind_of(x))
        and set(stride) == {1}
        and all(k % 2 for k in weight.shape[2:])
        and tuple(padding) == tuple(k // 2 for k in weight.shape[2:])
        and weight.shape[0] * weight.shape[1]
        >= CHANNELS[autocast.kind_of(x)] * (weight.shape[0] + weight.shape[1])
        # kernels for volumes smaller than this have been faulty on CPUs (see ctseg.nets.cpu.conv)
        and all(size >= max(k, 4) for size, k in zip(x.shape[2:], weight.shape[2:], strict=True))
        and math.prod(x.shape[2:]) >= VOXELS
        and x.is_contiguous(memory_format=layout)
        and _axis(x, weight) is not None
    )


def _products_take_the_time(kind: torch.dtype) -> bool:
    """Whether convolutions of that type take longer to multiply than to read: bfloat16 with AMX does not."""
    return kind == torch.float32 or (kind == torch.bfloat16 and not autocast.has_amx())


def _axis(x: torch.Tensor, weight: torch.Tensor) -> int | None:
    """The first axis with three taps and an even size; never the last, whose slices are short in memory."""
    for axis in range(2, x.ndim - 1):
        if weight.shape[axis] == 3 and x.shape[axis] % 2 == 0:
            return axis
    return None


def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The convolution of x, padded by half of the kernel, in the type of autocast if it is on.

    Args:
        x: [B, C, Z, Y, X] or [B, C, Y, X], channels-last, of even size along the first axis with 3 taps.

    Returns:
        [B, out, Z, Y, X] or [B, out, Y, X], channels-last.
    """
    axis = _axis(x, weight)
    assert axis is not None
    exact = autocast.kind_of(x) == x.dtype == torch.float32
    if exact and not torch.is_grad_enabled() and x.shape[axis] % 4 == 0:
        return winograd_fours.convolve(x, weight, bias, axis, _slabs(x, weight, axis, SLAB // 2, 4))
    trained = torch.is_grad_enabled() and weight.requires_grad
    return _convolve(x, weight, bias, _Convolution(axis, autocast.kind_of(x), trained))


class _Convolution(NamedTuple):
    """The axis with three taps, the type that is computed in, and whether the weights get a gradient."""

    axis: int
    kind: torch.dtype
    trained: bool


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        how: _Convolution,
    ) -> torch.Tensor:
        axis, kind, trained = how
        x, taps = x.to(kind), _combined_taps(weight, axis, kind)
        padding = [0 if a == axis else weight.shape[a] // 2 for a in range(2, x.ndim)]
        shift = None if bias is None else bias.to(kind)
        y = _empty((x.shape[0], weight.shape[0], *x.shape[2:]), x)
        pairs, results, slabs = _Pairs(x, axis), _Pairs(y, axis), _slabs(x, weight, axis, SLAB)
        # for the gradient of the taps; with several slabs they would take much memory and are mixed again
        keep = trained and len(slabs) == 1
        mixtures: dict[int, torch.Tensor] = {}

        def product(k: int, lo: int, hi: int, room: torch.Tensor | None) -> torch.Tensor:
            mixture = pairs.mix(k, lo, hi, out=room)
            if keep:
                mixtures[k] = mixture
            added = shift if k == 1 else None  # m1 is in both results
            return onednn.convolve(mixture, taps[k], added, padding=padding).movedim(axis, 0)

        for lo, hi in slabs:
            room = None if keep else pairs.room(lo, hi)
            first, second = results.first[lo:hi], results.second[lo:hi]
            m1, m2 = product(1, lo, hi, room), product(2, lo, hi, room)
            torch.add(m1, m2, out=first)
            torch.sub(m1, m2, out=second)
            del m1, m2  # the next ones reuse their memory, which is in the cache
            first += product(0, lo, hi, room)
            second += product(3, lo, hi, room)
        ctx.save_for_backward(*taps, *([mixtures[k] for k in range(4)] if keep else [x]))
        ctx.axis, ctx.padding, ctx.slabs, ctx.shape = axis, padding, slabs, x.shape
        ctx.of_weight, ctx.of_bias = weight.dtype, None if bias is None else bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        axis, tensors = ctx.axis, ctx.saved_tensors  # a checkpoint returns them only once
        taps, saved = tensors[:4], tensors[4:]
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad = grad.contiguous(memory_format=CHANNELS_LAST[grad.ndim])
        grads, pairs = _Pairs(grad, axis), _Pairs(saved[0], axis) if len(saved) == 1 else None
        dx = _empty(ctx.shape, grad) if for_x else None
        of_pairs = None if dx is None else _Pairs(dx, axis)
        sums: list[torch.Tensor | None] = [None] * 5  # of the four taps and the bias

        def back(k: int, lo: int, hi: int, share: torch.Tensor, room: torch.Tensor | None) -> Any:
            """The gradient of the k-th mixture, None if x needs none; adds up those of taps and bias."""
            mixture = saved[k] if pairs is None else pairs.mix(k, lo, hi, out=room)
            of_mixture, of_taps, of_bias = _gradients(
                grads.share(k, lo, hi, out=share), mixture, taps[k],
                padding=ctx.padding, wanted=[for_x, for_weight, for_bias and k == 1],
            )  # fmt: skip
            sums[k] = _sum(sums[k], of_taps)
            sums[4] = _sum(sums[4], of_bias)
            return of_mixture.movedim(axis, 0) if for_x else None

        for lo, hi in ctx.slabs:
            rooms = grads.room(lo, hi), None if pairs is None else pairs.room(lo, hi)
            one, two = back(1, lo, hi, *rooms), back(2, lo, hi, *rooms)
            if of_pairs is not None:
                torch.sub(one, two, out=of_pairs.first[lo:hi])
                torch.add(one, two, out=of_pairs.second[lo:hi])
            del one, two
            for k in (0, 3):
                part = back(k, lo, hi, *rooms)
                if of_pairs is not None:
                    of_pairs.unmix(k, lo, hi, part)
        if of_pairs is not None:
            of_pairs.unmix_ends()
        return (
            dx,
            _of_taps(sums[:4], axis).to(ctx.of_weight) if for_weight else None,
            None if sums[4] is None else sums[4].to(ctx.of_bias),
            None,
        )


_convolve: Callable[..., torch.Tensor] = _Convolve.apply


def _gradients(
    grad: torch.Tensor, x: torch.Tensor, taps: torch.Tensor,
    *, padding: Sequence[int], wanted: list[bool],
) -> Sequence[Any]:  # fmt: skip
    """Gradients of x, the taps and the bias of a convolution; None where not wanted.

    Slices that share no taps are passed as samples: oneDNN computes gradients of taps along two axes faster.
    """
    sliced, batch = x.ndim == 5 and taps.shape[2] == 1, len(x)
    if sliced:
        grad, x = (t.transpose(1, 2).flatten(0, 1) for t in (grad, x))
        taps, padding = taps.squeeze(2), padding[1:]
    of_x, of_taps, of_bias = torch.ops.aten.convolution_backward(
        grad, x, taps, [len(taps)], [1], padding, [1], False, [0], 1, wanted
    )
    if sliced and of_x is not None:
        of_x = of_x.view(batch, -1, *of_x.shape[1:]).transpose(1, 2)
    if sliced and of_taps is not None:
        of_taps = of_taps.unsqueeze(2)
    return of_x, of_taps, of_bias


class _Pairs:
    """A tensor as pairs of neighbours along an axis; methods take and return tensors with that axis first.

    A pair is (b, c) of the formula: a is the second of the pair before it, d the first of the pair after it.
    """

    def __init__(self, tensor: torch.Tensor, axis: int) -> None:
        self._tensor, self._axis = tensor, axis
        moved = tensor.movedim(axis, 0)
        self.first, self.second = moved[::2], moved[1::2]
        self._ends: list[tuple[int, torch.Tensor]] = []

    def room(self, lo: int, hi: int) -> torch.Tensor:
        """An empty tensor that holds one value for each of the pairs lo to hi."""
        shape = list(self._tensor.shape)
        shape[self._axis] = hi - lo
        return _empty(shape, self._tensor)

    def mix(self, k: int, lo: int, hi: int, *, out: torch.Tensor | None) -> torch.Tensor:
        """The k-th factor for the pairs lo to hi, with zeros beyond the ends; in a new tensor if `out` is None."""
        out = self.room(lo, hi) if out is None else out
        to, b, c = out.movedim(self._axis, 0), self.first[lo:hi], self.second[lo:hi]
        if k == 1:
            torch.add(b, c, out=to)
        elif k == 2:
            torch.sub(c, b, out=to)
        elif k == 0:
            begin = int(lo == 0)
            torch.neg(c[:begin], out=to[:begin])
            torch.sub(self.second[lo + begin - 1 : hi - 1], c[begin:], out=to[begin:])
        else:
            end = hi - lo - int(hi == len(self.first))
            torch.sub(b[:end], self.first[lo + 1 : lo + 1 + end], out=to[:end])
            to[end:] = b[end:]
        return out

    def unmix(self, k: int, lo: int, hi: int, grad: torch.Tensor) -> None:
        """Add the gradient of `mix` for k = 0 or 3; slabs are written from low to high."""
        b, c = self.first[lo:hi], self.second[lo:hi]
        if k == 0:
            begin = int(lo == 0)
            c -= grad
            self.second[lo + begin - 1 : hi - 1] += grad[begin:]
        else:
            b += grad
            b[1:] -= grad[:-1]
            self._ends.append((hi, grad[-1].clone()))

    def unmix_ends(self) -> None:
        """Add the gradients that fall on the pairs after each slab, once all slabs are written."""
        for hi, grad in self._ends:
            if hi < len(self.first):
                self.first[hi] -= grad

    def share(self, k: int, lo: int, hi: int, *, out: torch.Tensor) -> torch.Tensor:
        """The gradient of the k-th product from the gradients of the results."""
        to, first, second = out.movedim(self._axis, 0), self.first[lo:hi], self.second[lo:hi]
        if k == 1:
            torch.add(first, second, out=to)
        elif k == 2:
            torch.sub(first, second, out=to)
        else:
            to.copy_(first if k == 0 else second)
        return out


def _combined_taps(weight: torch.Tensor, axis: int, kind: torch.dtype) -> list[torch.Tensor]:
    """The four kernels, each with one tap along the axis; summed in float32, then rounded."""
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    g0, g1, g2 = (exact.narrow(axis, tap, 1) for tap in range(3))
    ends = (g0 + g2).div_(2)
    four = (g0, torch.add(ends, g1, alpha=0.5), torch.sub(ends, g1, alpha=0.5), -g2)
    return [g.to(kind, memory_format=CHANNELS_LAST[weight.ndim]) for g in four]


def _of_taps(grads: Sequence[torch.Tensor | None], axis: int) -> torch.Tensor:
    """The gradient of the kernel from those of the four kernels."""
    g0, g1, g2, g3 = (grad for grad in grads if grad is not None)
    shape = list(g0.shape)
    shape[axis] = 3
    result = _empty(shape, g0)
    first, second, third = (result.narrow(axis, tap, 1) for tap in range(3))
    half = (g1 + g2).div_(2)
    torch.add(g0, half, out=first)
    torch.sub(g1, g2, out=second).div_(2)
    torch.sub(half, g3, out=third)
    return result


def _sum(total: torch.Tensor | None, part: torch.Tensor | None) -> torch.Tensor | None:
    """Sum of two tensors, in float32 at least; None counts as 0."""
    if part is None:
        return total
    if total is None:
        return part.to(torch.promote_types(part.dtype, torch.float32))
    return total.add_(part)


def _slabs(
    x: torch.Tensor, weight: torch.Tensor, axis: int, size: int, together: int = 2
) -> list[tuple[int, int]]:
    """Ranges of groups of neighbours, of about equal length, whose mixtures stay in the cache.

    Args:
        size: bytes of a mixture per thread.
        together: number of neighbours in a group.
    """
    groups = x.shape[axis] // together
    values = x.numel() // x.shape[1] * max(weight.shape[:2])
    slabs = math.ceil(
        values * x.element_size() / (together * size * min(torch.get_num_threads(), THREADS))
    )
    slabs = min(slabs, groups)
    return [(groups * i // slabs, groups * (i + 1) // slabs) for i in range(slabs)]


def _empty(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=CHANNELS_LAST[like.ndim]
    )
