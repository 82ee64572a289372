"""The C library's allocator during CPU training.

glibc gives large buffers back to the system after each operation and gets them again, zeroed, page by page, for the
next one: tens of thousands of page faults a step. Keeping them took 10 to 20 % off a step of `unet3d` on two cores.
"""

from __future__ import annotations

import ctypes
import functools
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


@functools.cache
def keep_buffers() -> bool:
    """Ask glibc to keep what is freed for the next operation; elsewhere nothing is done.

    Returns:
        Whether it was taken up.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
