"""Convolutions of volumes too small for the bfloat16 kernels of a CPU, computed in float32 instead.

With oneDNN 3.12 (PyTorch 2.13) on a processor with AMX, the weight gradient of a bfloat16 `Conv3d` is garbage, often
NaN, where an axis is shorter than the kernel, as at the deepest level of a thin patch: relative errors near 1 for 2
slices under a kernel of 3, whatever the other sizes, channels and memory layout. Where a strided convolution leaves
one voxel along x, the result itself may be wrong, too (PyTorch issue 169688). Such volumes are tiny, so float32 costs
nothing that could be measured.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class SmallConv3d(nn.Conv3d):
    """A `Conv3d` that leaves mixed precision where the volume is too small for it."""

    def _conv_forward(
        self, x_bczyx: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        forward: Callable[..., torch.Tensor] = super()._conv_forward
        if not torch.is_autocast_enabled("cpu") or not self._too_small(x_bczyx):
            return forward(x_bczyx, weight, bias)
        kind = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            exact = None if bias is None else bias.float()
            return forward(x_bczyx.float(), weight.float(), exact).to(kind)

    def _too_small(self, x_bczyx: torch.Tensor) -> bool:
        sizes = x_bczyx.shape[-3:]
        return any(
            size < reach or (stride > 1 and size <= 2 * stride)
            for size, reach, stride in zip(sizes, self.kernel_size, self.stride, strict=True)
        )


def guard(module: nn.Module) -> None:
    """Make the module's plain 3D convolutions mind small volumes; parameters and their names stay."""
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = SmallConv3d
