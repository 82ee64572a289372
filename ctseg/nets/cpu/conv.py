"""3D convolutions on a CPU: fewer products where that is faster, float32 where bfloat16 is wrong.

Large convolutions take two thirds of the products (`winograd`), in predictions in float32 half of them
(`winograd_fours`); small ones compute the gradient of their kernel as a matrix product (`im2col`), and go to oneDNN
where PyTorch would not ask it (`onednn`). Volumes too small for the bfloat16 kernels are computed in float32: with
oneDNN 3.12 (PyTorch 2.13) on a processor with AMX, the weight gradient of a bfloat16 `Conv3d` is garbage, often NaN,
where an axis is shorter than the kernel, as at the deepest level of a thin patch: relative errors near 1 for 2 slices
under a kernel of 3, whatever the other sizes, channels and memory layout. Where a strided convolution leaves one
voxel along x, the result itself may be wrong, too (PyTorch issue 169688). Such volumes are tiny, so float32 takes no
measurable time.

Inside the context `use_cpu_kernels`, `torch.nn.Conv3d` has another `_conv_forward`, which checks whether the calling
thread uses the kernels. Layers themselves are unchanged, so they pickle as before. A `TorchFunctionMode` would work
without replacing the method, but takes 1.5 microseconds for each operation and each property of a tensor, 5 % of a
forward pass of 20 ms.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ctseg.nets.cpu import autocast, im2col, onednn, winograd

_pytorch: Callable[..., torch.Tensor] = nn.Conv3d._conv_forward
"""PyTorch's method, in place while no context is open."""
_users = 0
"""Number of open contexts, over all threads."""
_lock = threading.Lock()


@contextlib.contextmanager
def use_cpu_kernels() -> Iterator[None]:
    """Use the kernels for plain 3D convolutions of this thread; contexts nest."""
    with _installed(), autocast.activated():
        yield


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Replace `Conv3d._conv_forward` by `_conv_forward` while any context is open."""
    global _users, _pytorch
    with _lock:
        if not _users:
            _pytorch = nn.Conv3d._conv_forward
            nn.Conv3d._conv_forward = _conv_forward  # type: ignore[method-assign,assignment]
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                nn.Conv3d._conv_forward = _pytorch  # type: ignore[method-assign]


def _conv_forward(
    conv: nn.Conv3d, x_bczyx: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    if torch.compiler.is_compiling() or not _is_wanted(conv):
        return _pytorch(conv, x_bczyx, weight, bias)
    if torch.is_autocast_enabled("cpu") and _too_small(conv, x_bczyx):
        with torch.autocast("cpu", enabled=False):
            exact = None if bias is None else bias.float()
            y = _pytorch(conv, x_bczyx.float(), weight.float(), exact)
        return y.to(torch.get_autocast_dtype("cpu"))
    if isinstance(conv.padding, tuple) and _is_usual(conv) and x_bczyx.ndim == 5:
        how: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding}
        if winograd.is_faster(x_bczyx, weight, **how):
            return winograd.convolve(x_bczyx, weight, bias)
        if im2col.is_faster(x_bczyx, weight, **how):
            return im2col.convolve(x_bczyx, weight, bias, **how)
        if onednn.is_faster(x_bczyx, weight):
            return onednn.convolve(x_bczyx, weight, bias, **how)
    return _pytorch(conv, x_bczyx, weight, bias)


def _is_wanted(conv: nn.Conv3d) -> bool:
    """Whether this thread uses the kernels for this layer; subclasses of `Conv3d` keep their own computation."""
    return type(conv) is nn.Conv3d and autocast.is_active()


def _is_usual(conv: nn.Conv3d) -> bool:
    return conv.padding_mode == "zeros" and conv.groups == 1 and set(conv.dilation) == {1}


def _too_small(conv: nn.Conv3d, x_bczyx: torch.Tensor) -> bool:
    sizes = x_bczyx.shape[-3:]
    return any(
        size < reach or (stride > 1 and size <= 2 * stride)
        for size, reach, stride in zip(sizes, conv.kernel_size, conv.stride, strict=True)
    )
