"""Small boxes of uncompressed HDF5 datasets, read through a memory map."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def mapped_box(stored: h5py.Dataset, box: tuple[slice, ...], path: Path) -> NDArray[Any] | None:
    """A box [..., Z, Y, X] of a contiguous dataset; None if mapping is impossible or brings no gain.

    HDF5 itself reads 64 KiB of the file for each row of the box, however short.
    """
    whole_rows = all(b.stop - b.start == n for b, n in zip(box[1:], stored.shape[-2:], strict=True))
    layout = stored.id.get_create_plist()
    if (
        whole_rows
        or layout.get_layout() != h5py.h5d.CONTIGUOUS
        or layout.get_external_count()
        or stored.file.userblock_size
        or stored.id.get_offset() is None  # nothing has been written yet
        or not hasattr(mmap, "MADV_RANDOM")
    ):
        return None
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as view:
        view.madvise(mmap.MADV_RANDOM)
        mapped = np.frombuffer(view, stored.dtype, stored.size, stored.id.get_offset())
        index: tuple[Any, ...] = (..., *box)
        part = np.array(mapped.reshape(stored.shape)[index])
        del mapped
    return part
