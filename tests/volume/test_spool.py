"""The unpacked copy of a compressed scan: read like the scan, gone however the process ends, a full disk said."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ctseg
from ctseg.errors import DiskFull, FileProblem
from ctseg.volume.io import open_volume
from ctseg.volume.spool import Spool, by_region

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).integers(-1000, 2000, (9, 10, 11)).astype(np.int16)
    ctseg.write(ctseg.Volume.from_array(array), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


@LINUX
def test_the_copy_has_no_name_and_reads_like_the_scan(scan):
    with open_volume(scan) as source:
        copy = by_region(source, scan.parent)
        assert [p.name for p in scan.parent.iterdir()] == ["a.nii.gz"]
        np.testing.assert_array_equal(
            copy.read_box((2, 3, 4), (5, 6, 7)), source.read_box((2, 3, 4), (5, 6, 7))
        )
        np.testing.assert_array_equal(copy.read((8, 9)), source.read((8, 9)))
        before = len(list(Path("/proc/self/fd").iterdir()))
        copy.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
        copy.close()


def test_where_files_need_names_closing_deletes_the_copy(scan, monkeypatch):
    monkeypatch.setattr("ctseg.volume.spool.OPEN_FILES", Path("/nowhere"))
    with open_volume(scan) as source:
        copy = by_region(source, scan.parent)
        assert len(list(scan.parent.iterdir())) == 2
        np.testing.assert_array_equal(copy.read(), source.read())
        del copy
        assert [p.name for p in scan.parent.iterdir()] == ["a.nii.gz"]


@LINUX
def test_a_killed_process_leaves_nothing(scan):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from ctseg.volume.io import open_volume\nfrom ctseg.volume.spool import by_region\n"
        "copy = by_region(open_volume(sys.argv[1]), Path(sys.argv[1]).parent)\n"
        "assert copy.read().size == 990\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(scan)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [p.name for p in scan.parent.iterdir()] == ["a.nii.gz"]


def test_a_full_disk_is_said_before_anything_is_written(scan, monkeypatch):
    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ctseg.volume.spool.reserve", full)
    with open_volume(scan) as source, pytest.raises(DiskFull, match=r"full.*needed") as raised:
        by_region(source, scan.parent)
    assert raised.value.needed == 9 * 10 * 11 * 2
    assert [p.name for p in scan.parent.iterdir()] == ["a.nii.gz"]


def test_a_disk_that_fills_up_meanwhile_is_not_taken_for_a_damaged_scan(scan, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ctseg.volume.spool.os.write", full)
    with open_volume(scan) as source, pytest.raises(DiskFull, match="disk is full"):
        by_region(source, scan.parent)


def test_a_truncated_scan_is_said_to_be_truncated(scan):
    scan.write_bytes(scan.read_bytes()[:-300])
    with open_volume(scan) as source, pytest.raises(FileProblem, match="truncated"):
        by_region(source, scan.parent)
    assert [p.name for p in scan.parent.iterdir()] == ["a.nii.gz"]


def test_room_is_really_reserved(tmp_path):
    spool = Spool(tmp_path)
    spool.reserve(4 << 20)
    assert spool.path.stat().st_size == 4 << 20
    if hasattr(os, "posix_fallocate"):
        assert spool.path.stat().st_blocks * 512 >= 4 << 20
    spool.close()
