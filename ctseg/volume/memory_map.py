"""Releases pages of memory-mapped arrays that a pass over a large file has touched."""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np


def drop_pages(array: Any) -> None:
    """Remove the pages of a memory-mapped array (or of some of its planes) from this process's memory.

    Changes are kept: changed pages stay in the system's cache of the file and reach the disk as usual.
    Only maps shared with the file are affected (modes r, r+ and w+), on Linux; other arrays are left alone.
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
    """`drop_pages` for some planes of an array; does nothing, and reads nothing, for other arrays."""
    if isinstance(array, np.memmap):
        drop_pages(array[start:stop])
