"""Small boxes of uncompressed HDF5 datasets, read by way of a memory map."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def mapped_box(stored: h5py.Dataset, box: tuple[slice, ...], path: Path) -> NDArray[Any] | None:
    """A box [..., Z, Y, X] of a dataset that lies in one piece; None where that cannot be, or has no use.

    HDF5 would read 64 KiB of the file for each row of the box, however short.
    """
    whole_rows = all(b.stop - b.start == n for b, n in zip(box[1:], stored.shape[-2:], strict=True))
    layout = stored.id.get_create_plist()
    if (
        whole_rows
        or layout.get_layout() != h5py.h5d.CONTIGUOUS
        or layout.get_external_count()
        or stored.file.userblock_size
        or stored.id.get_offset() is None  # nothing was written yet
        or not hasattr(mmap, "MADV_RANDOM")
    ):
        return None
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as view:
        view.madvise(mmap.MADV_RANDOM)
        flat = np.frombuffer(view, stored.dtype, stored.size, stored.id.get_offset())
        index: tuple[Any, ...] = (..., *box)
        part = np.array(flat.reshape(stored.shape)[index])
        del flat
    return part
