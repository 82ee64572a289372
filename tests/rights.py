"""Permissions that count for root, too: on Linux this thread gives up the rights that pass over them for a while."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import pytest

_VERSION = 0x20080522  # <linux/capability.h>, _LINUX_CAPABILITY_VERSION_3
_OVERRIDE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32),
    )  # fmt: skip


@contextlib.contextmanager
def permissions_count() -> Iterator[None]:
    """Within, what the permissions of a file or folder forbid is forbidden to this thread and those it starts.

    Nobody but root passes over them otherwise. Root on other systems than Linux skips the test.
    """
    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has no permissions of POSIX")
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may write anywhere")
    before = _capabilities()
    fewer = (_Set * 2)(*before)
    fewer[0].effective &= ~_OVERRIDE
    _call("capset", fewer)
    try:
        yield
    finally:
        _call("capset", before)


def _capabilities() -> ctypes.Array[_Set]:
    out = (_Set * 2)()
    _call("capget", out)
    return out


def _call(name: str, sets: ctypes.Array[_Set]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(ctypes.byref(_Header(_VERSION, 0)), sets):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
