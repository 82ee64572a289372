"""Arrays too large for memory, in temporary files that vanish with the process."""

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
"""Arrays up to so many bytes are held in memory."""


def scratch(
    shape: Sequence[int],
    dtype: DTypeLike,
    folder: Path | None = None,
    *,
    in_memory: int | None = None,
) -> NDArray[Any]:
    """An array of zeros to work on: in memory where it is small, else mapped from an unnamed file.

    Args:
        folder: where the file lies; the system's temporary folder by default.
        in_memory: bytes up to which memory is used; `IN_MEMORY` by default.

    Raises:
        FileProblem: the disk has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= (IN_MEMORY if in_memory is None else in_memory):
        return np.zeros(tuple(shape), dtype)
    place = Path(folder or tempfile.gettempdir())
    # it has no name where the system knows such files, so that nothing stays if the process is killed
    with (
        disk_errors(place, needed=size),
        tempfile.TemporaryFile(suffix=".ctseg", dir=folder) as file,
    ):
        reserve(file.fileno(), size)
        return np.memmap(file, dtype, "r+", shape=tuple(shape))


def reserve(descriptor: int, size: int) -> None:
    """Have the disk keep room for a file, so that a full disk is an error now and not a crash of a mapping later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
