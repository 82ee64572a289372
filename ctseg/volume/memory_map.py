"""Memory-mapped arrays: handing back the pages that a walk through a large file has touched."""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np


def drop_pages(array: Any) -> None:
    """Take the pages of a memory-mapped array (or of some of its planes) out of this process's memory.

    Nothing is lost: changed pages stay in the system's cache of the file and reach the disk as they would otherwise.
    Only maps shared with the file are touched (modes r, r+ and w+), on Linux; any other array is left alone.
    """
    if not isinstance(array, np.memmap) or sys.platform != "linux" or not array.size:
        return
    pages = getattr(array, "_mmap", None)
    shared = getattr(array, "mode", None) in (
        "r",
        "r+",
        "w+",
    )  # a private map would lose its changes
    if pages is None or not shared or not array.flags.c_contiguous:
        return
    base = np.frombuffer(pages, np.uint8, count=1).__array_interface__["data"][0]
    low = array.__array_interface__["data"][0] - base
    start = low // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    pages.madvise(mmap.MADV_DONTNEED, start, min(low + array.nbytes, len(pages)) - start)


def drop_array_pages(array: Any, start: int, stop: int) -> None:
    """The same for some planes of an array, which is not read if it is no memory-mapped one."""
    if isinstance(array, np.memmap):
        drop_pages(array[start:stop])
