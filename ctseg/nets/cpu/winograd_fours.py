"""Convolutions with three taps that need half of the products, for predictions in float32.

Along one axis, four neighbouring results of the taps (g0, g1, g2) on six values (d0, ..., d5) follow from six products:
F(4, 3) in the form of Lavin and Gray (arXiv:1509.09308, section 4.2), where the plain sums take twelve and F(2, 3) of
`winograd` takes eight. Each product is a convolution over the other axes. The factors reach from 1/24 to 8, so that a
result is about five times as far from the exact one as that of the usual kernel, some 1e-5 of the largest value; in
half precision this would be too far. Nothing here has a gradient.

On a core with AVX2 this takes 0.6 to 0.7 of the time of oneDNN's channels-last convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctseg.nets.cpu import onednn
from ctseg.nets.memory_layout import CHANNELS_LAST

_TAPS = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
"""G of the paper: the six taps from the three."""


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    axis: int,
    slabs: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """The convolution of x, padded by half of the kernel.

    Args:
        x: [B, C, Z, Y, X] or [B, C, Y, X] in float32, channels-last; its size along the axis is a multiple of 4.
        axis: along which the kernel has 3 taps.
        slabs: ranges of groups of four that are computed at a time.
    """
    layout = CHANNELS_LAST[x.ndim]
    y = torch.empty(
        (x.shape[0], weight.shape[0], *x.shape[2:]), dtype=x.dtype, memory_format=layout
    )
    six = _six_taps(weight, axis)
    padding = [0 if a == axis else weight.shape[a] // 2 for a in range(2, x.ndim)]
    moved, results = x.movedim(axis, 0), y.movedim(axis, 0)
    d1, d2, d3, d4 = (
        moved[at::4] for at in range(4)
    )  # d0 is d4 of the group before, d5 is d1 of the one after
    groups = len(d1)
    for lo, hi in slabs:
        rooms = [_room(x, axis, hi - lo) for _ in range(3)]
        mixture = rooms[0]
        to, one, two = (room.movedim(axis, 0) for room in rooms)

        def product(
            k: int, shift: torch.Tensor | None = None, mixture: torch.Tensor = mixture
        ) -> torch.Tensor:
            """Of the mixture and the k-th taps."""
            return onednn.convolve(mixture, six[k], shift, padding=padding).movedim(axis, 0)

        y0, y1, y2, y3 = (results[at::4][lo:hi] for at in range(4))
        a, b, c, d = d1[lo:hi], d2[lo:hi], d3[lo:hi], d4[lo:hi]
        torch.sub(d, b, alpha=4, out=one)
        torch.sub(c, a, alpha=4, out=two)
        torch.add(one, two, out=to)
        m1 = product(1, bias)  # m1 is in all four results
        torch.sub(one, two, out=to)
        m2 = product(2)
        torch.add(m1, m2, out=y0)
        torch.sub(m1, m2, out=y1)
        y2.copy_(y0)
        y3.copy_(y1)
        del m1, m2  # the next ones reuse their memory, which is in the cache
        torch.sub(d, b, out=one)
        torch.sub(c, a, out=two)
        torch.add(one, two, alpha=2, out=to)
        m3 = product(3)
        torch.sub(one, two, alpha=2, out=to)
        m4 = product(4)
        both = m3 + m4
        y0 += both
        y2.add_(both, alpha=4)
        del both
        m3 -= m4
        y1.add_(m3, alpha=2)
        y3.add_(m3, alpha=8)
        del m3, m4
        torch.sub(d, b, alpha=5, out=to)
        begin = int(lo == 0)  # beyond the ends are zeros
        to[begin:].add_(d4[lo + begin - 1 : hi - 1], alpha=4)
        y0 += product(0)
        torch.mul(a, 4, out=to)
        to.sub_(c, alpha=5)
        end = hi - lo - int(hi == groups)
        to[:end] += d1[lo + 1 : lo + 1 + end]
        y3 += product(5)
    return y


def _six_taps(weight: torch.Tensor, axis: int) -> list[torch.Tensor]:
    """The six kernels, each with one tap along the axis."""
    six = torch.tensordot(torch.tensor(_TAPS, dtype=weight.dtype), weight, ([1], [axis]))
    layout = CHANNELS_LAST[weight.ndim]
    return [taps.unsqueeze(axis).contiguous(memory_format=layout) for taps in six]


def _room(x: torch.Tensor, axis: int, groups: int) -> torch.Tensor:
    """An empty tensor with one value for each of so many groups."""
    shape = list(x.shape)
    shape[axis] = groups
    return torch.empty(shape, dtype=x.dtype, memory_format=CHANNELS_LAST[x.ndim])
