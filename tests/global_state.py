"""What one test leaves behind must not decide what the next one finds: the state of the process, looked at twice."""

from __future__ import annotations

import contextlib
import locale
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

SET_BY_IMPORTS = {
    "CUBLAS_WORKSPACE_CONFIG", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "ME_DSL_JIT_LIBTCC_PATH",
    "PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR",
}  # fmt: skip
"""Variables that libraries set when they are first imported, whichever test that is, and pytest's own."""


@pytest.fixture(autouse=True)
def unchanged_state() -> Iterator[None]:
    """Fails a test that changes the state of the process and does not change it back."""
    before = state()
    yield
    after = state()
    changed = {
        key: (before[key], value)
        for key, value in after.items()
        if key in before and value != before[key]
    }
    assert not changed, f"the test leaves changed (before, after): {changed}"


@contextlib.contextmanager
def kept_locale() -> Iterator[None]:
    """Bring the locale back: GDCM sets it to C where it writes tags, and text of processes is ASCII from then on."""
    before = locale.setlocale(locale.LC_ALL, None)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def state() -> dict[str, Any]:
    """Everything that a test may change for those that follow it in the same process, by name."""
    mask = os.umask(0)
    os.umask(mask)
    out: dict[str, Any] = {
        "environment": {k: v for k, v in os.environ.items() if k not in SET_BY_IMPORTS},
        "folder": os.getcwd(),  # noqa: PTH109
        "locale": locale.setlocale(locale.LC_ALL, None),
        "umask": mask,
        "signals": {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
    }
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "backends"):
        out |= {
            "torch threads": torch.get_num_threads(),
            "torch dtype": torch.get_default_dtype(),
            "torch device": torch.get_default_device(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "deterministic warnings": torch.is_deterministic_algorithms_warn_only_enabled(),
            "mkldnn": (torch.backends.mkldnn.enabled, torch.backends.mkldnn.deterministic),
            "matmul precision": torch.get_float32_matmul_precision(),
            "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
            "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
            "layers": (torch.nn.Conv3d.forward, torch.nn.functional.conv3d),
        }
    return out
