"""What mixed precision and the processor mean for a convolution."""

from __future__ import annotations

import torch

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The memory layouts in which a voxel's channels are neighbours, by the number of axes."""


def kind_of(x: torch.Tensor) -> torch.dtype:
    """The type in which convolutions of x are computed on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16: products are cheap then, and memory is what takes time."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def plain_cpu(x: torch.Tensor) -> bool:
    """Whether x is computed on the CPU by PyTorch's operations, one after another."""
    return (
        x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )
