"""When the kernels of this folder are used, and which number type and processor they meet."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

ENABLED = True
"""Switch for all kernels of this folder; with False, PyTorch computes everything."""


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
    """The type in which the CPU computes convolutions of x: that of autocast, if it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16 (AMX); memory then takes the time, products do not."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def plain_cpu(x: torch.Tensor) -> bool:
    """Whether PyTorch computes x eagerly on the CPU: neither compiled nor traced."""
    return (
        x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )
