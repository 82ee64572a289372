"""When the kernels of this folder are used, and what mixed precision and the processor mean for them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

ENABLED = True
"""False turns every kernel of this folder off: networks then compute as PyTorch does."""


class _Depth(threading.local):
    value = 0


_depth = _Depth()


@contextlib.contextmanager
def activated() -> Iterator[None]:
    """Use the kernels in this thread; contexts nest."""
    _depth.value += 1
    try:
        yield
    finally:
        _depth.value -= 1


def is_active() -> bool:
    """Whether this thread uses the kernels."""
    return ENABLED and _depth.value > 0


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
