"""The convolutions of mixed precision on a CPU: sooner where they can be, in float32 where they must be.

Large ones need two thirds of the products (`ctseg.nets.cpu.winograd`); the kernels of small ones get their gradient
as a product of matrices (`ctseg.nets.cpu.im2col`). Those of volumes too small for the bfloat16
kernels are computed in float32: with oneDNN 3.12 (PyTorch 2.13) on a processor with AMX, the weight gradient of a
bfloat16 `Conv3d` is garbage, often NaN, where an axis is shorter than the kernel, as at the deepest level of a thin
patch: relative errors near 1 for 2 slices under a kernel of 3, whatever the other sizes, channels and memory layout.
Where a strided convolution leaves one voxel along x, the result itself may be wrong, too (PyTorch issue 169688). Such
volumes are tiny, so float32 costs nothing that could be measured.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ctseg.nets.cpu import im2col, winograd


class CpuConv3d(nn.Conv3d):
    """A `Conv3d` that looks at the volume before it takes PyTorch's way in mixed precision."""

    def _conv_forward(
        self, x_bczyx: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        forward: Callable[..., torch.Tensor] = super()._conv_forward
        if not torch.is_autocast_enabled("cpu"):
            return forward(x_bczyx, weight, bias)
        if self._too_small(x_bczyx):
            with torch.autocast("cpu", enabled=False):
                exact = None if bias is None else bias.float()
                y = forward(x_bczyx.float(), weight.float(), exact)
            return y.to(torch.get_autocast_dtype("cpu"))
        if isinstance(self.padding, tuple) and self._is_usual():
            how = {"stride": self.stride, "padding": self.padding}
            if winograd.pays(x_bczyx, weight, **how):
                return winograd.convolve(x_bczyx, weight, bias)
            if im2col.pays(x_bczyx, weight, **how):
                return im2col.convolve(x_bczyx, weight, bias, **how)
        return forward(x_bczyx, weight, bias)

    def _is_usual(self) -> bool:
        return self.padding_mode == "zeros" and self.groups == 1 and set(self.dilation) == {1}

    def _too_small(self, x_bczyx: torch.Tensor) -> bool:
        sizes = x_bczyx.shape[-3:]
        return any(
            size < reach or (stride > 1 and size <= 2 * stride)
            for size, reach, stride in zip(sizes, self.kernel_size, self.stride, strict=True)
        )


def equip(module: nn.Module) -> None:
    """Make the module's plain 3D convolutions such ones; parameters and their names stay."""
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = CpuConv3d
