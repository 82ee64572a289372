"""Convolutions of one sample by oneDNN where PyTorch does not ask it.

In float32 PyTorch leaves a single sample to its own `slow_conv3d` if channels * depth * height are at most 20,480
(`use_mkldnn` in ATen's Convolution.cpp; the rule was made for images, whose channels * height * width it counts). So
64 channels of 8 x 32 x 32 fall under it, and take 2.6 times as long on a core with AVX2, 32 channels of 8 x 64 x 64
seven times. With one thread, kernels of one voxel are left to it as well, which copies channels-last volumes. Tiles
are predicted one by one, so it concerns the deep levels of a network, and slabs of `winograd`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ctseg.nets.cpu import autocast

FEW = 20_480
"""Up to this many values along the first axes of a single sample PyTorch does not ask oneDNN."""


def is_faster(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether PyTorch would pass oneDNN over; where a gradient is wanted, PyTorch has to compute it anyway.

    Args:
        x: [B, C, Z, Y, X].
        weight: [out, C, kz, ky, kx], not in groups.
    """
    batch, channels, depth, height = x.shape[:4]
    few = channels * depth * height <= FEW
    if max(weight.shape[2:]) == 1:  # PyTorch's own matrix product is fast, but needs another layout
        few = (few or torch.get_num_threads() == 1) and _is_last(x)
    return (
        batch == 1
        and few
        and not torch.is_grad_enabled()
        and x.dtype == weight.dtype == torch.float32
        and autocast.kind_of(x) == torch.float32
        and autocast.plain_cpu(x)
        and _computes(x)
    )


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    padding: Sequence[int],
    stride: Sequence[int] | None = None,
) -> torch.Tensor:
    """The convolution, without a gradient; by PyTorch's choice where it is not in float32 or oneDNN is missing."""
    ones = (1,) * (x.ndim - 2)
    stride = ones if stride is None else stride
    if _computes(x):
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, ones, 1)
    return torch.convolution(x, weight, bias, stride, padding, ones, False, [0], 1)


def _is_last(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()


def _computes(x: torch.Tensor) -> bool:
    return x.dtype == torch.float32 and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
