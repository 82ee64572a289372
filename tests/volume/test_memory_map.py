"""Pages of memory-mapped files that are handed back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ctseg.volume.memory_map import drop_pages


def resident() -> int:
    """Bytes of mapped files that lie in this process's memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the pages")
def test_pages_go_and_changes_stay(tmp_path):
    path, size = tmp_path / "map.raw", 32 * 2**20
    array = np.memmap(path, np.uint8, "w+", shape=(32, 1024, 1024), offset=100)
    array[:] = 7
    before = resident()
    drop_pages(array[:16])
    drop_pages(array[16:])
    assert resident() < before - size // 2
    assert (array == 7).all()
    array.flush()
    assert np.fromfile(path, np.uint8, offset=100).min() == 7


def test_what_a_private_map_holds_is_not_lost(tmp_path):
    path = tmp_path / "map.raw"
    np.zeros((4, 64, 64), np.uint8).tofile(path)
    array = np.memmap(path, np.uint8, "c", shape=(4, 64, 64))
    array[:] = 5
    drop_pages(array)
    assert (array == 5).all()
    for other in (np.zeros((2, 2, 2)), array[:, ::2], array[:0], [1, 2]):
        drop_pages(other)
