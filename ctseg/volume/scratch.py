"""Arrays too large for memory, in temporary files that are deleted when the process ends."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctseg.files import disk_errors

IN_MEMORY = 2**28
"""Largest array in bytes that is held in memory."""


def scratch(
    shape: Sequence[int],
    dtype: DTypeLike,
    folder: Path | None = None,
    *,
    in_memory: int | None = None,
) -> NDArray[Any]:
    """A zero-filled work array: in memory if it is small, else mapped from an unnamed file.

    Args:
        folder: folder of the file; by default the system's temporary folder.
        in_memory: bytes up to which memory is used; `IN_MEMORY` by default.

    Raises:
        FileProblem: the disk is full.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= (IN_MEMORY if in_memory is None else in_memory):
        return np.zeros(tuple(shape), dtype)
    place = Path(folder or tempfile.gettempdir())
    # the file has no name where the system supports that, so that nothing remains if the process is killed
    with (
        disk_errors(place, needed=size),
        tempfile.TemporaryFile(suffix=".ctseg", dir=folder) as file,
    ):
        reserve(file.fileno(), size)
        return np.memmap(file, dtype, "r+", shape=tuple(shape))


def reserve(descriptor: int, size: int) -> None:
    """Reserve disk space for a file, so that a full disk raises an error now instead of crashing a mapping later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
