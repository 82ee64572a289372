"""Nothing half-written ever stands under the final name."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import VolumeWriter
from ctseg.volume.formats.writer import Writer
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader
from ctseg.volume.io import read, write, writer_format
from ctseg.volume.volume import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".h5", ".tif")
GRID = Geometry((6, 4, 5), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0))


def open_writer(path: Path, channels: int | None = None, dtype: str = "uint8") -> VolumeWriter:
    make = writer_format(path).writer
    assert make is not None
    return make(path, GRID, np.dtype(dtype), channels=channels)


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_slabs_make_the_whole(tmp_path: Path, suffix: str, channels: int | None) -> None:
    shape = GRID.shape_zyx if channels is None else (channels, *GRID.shape_zyx)
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.float32)
    path = tmp_path / f"out{suffix}"
    writer = open_writer(path, channels, "float32")
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        writer.write(start, array[..., start:stop, :, :])
        assert not path.exists()
    writer.commit()
    options = {"channels": "last"} if suffix.startswith(".nii") and channels else {}
    np.testing.assert_array_equal(read(path, **options).array, array)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_abort_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")
    writer = open_writer(path)
    writer.write(0, np.zeros((2, 4, 5), np.uint8))
    writer.abort()
    writer.abort()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_slices_are_no_file(tmp_path: Path, suffix: str) -> None:
    writer = open_writer(tmp_path / f"out{suffix}")
    writer.write(0, np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(BadInput, match="2 of its 6 slices"):
        writer.commit()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("start", "slab", "message"),
    [
        (1, np.zeros((1, 4, 5), np.uint8), "slice 0 of 6 is expected"),
        (0, np.zeros((7, 4, 5), np.uint8), "slice 0 of 6 is expected"),
        (0, np.zeros((1, 4, 4), np.uint8), "shape"),
        (0, np.zeros((1, 4, 5), np.float32), "does not fit uint8"),
    ],
)
def test_wrong_slabs(tmp_path: Path, start: int, slab: Any, message: str) -> None:
    writer = open_writer(tmp_path / "out.nii.gz")
    with pytest.raises(BadInput, match=message):
        writer.write(start, slab)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInput, match="nothing more"):
        writer.write(0, np.zeros((1, 4, 5), np.uint8))


class FullDisk:
    def __init__(self, temporary: Path) -> None:
        temporary.write_bytes(b"half")

    def put(self, start: int, slab_czyx: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def finish(self) -> None: ...

    def discard(self) -> None: ...


def test_full_disk(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "out.nii", ".nii", VolumeHeader(GRID, np.dtype("uint8")), FullDisk)
    with pytest.raises(FileProblem, match="disk is full"):
        writer.write(0, np.zeros((1, 4, 5), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_unwritable_places(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    volume = Volume(np.zeros(GRID.shape_zyx, np.uint8), GRID)
    with pytest.raises(FileProblem):
        write(volume, tmp_path / "file" / f"out{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(FileProblem, match="is a folder"):
        write(volume, tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("name", ["out.xyz", "out", ".nii.gz", "out.mhd", "out.nhdr", "out.dcm"])
def test_names_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput):
        write(Volume(np.zeros(GRID.shape_zyx, np.uint8), GRID), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_types_that_a_format_has_not(tmp_path: Path) -> None:
    write(Volume(np.ones(GRID.shape_zyx, np.bool_), GRID), tmp_path / "mask.nii.gz")
    assert read(tmp_path / "mask.nii.gz").array.dtype == np.uint8
    write(Volume(np.ones(GRID.shape_zyx, np.float16), GRID), tmp_path / "half.h5")
    assert read(tmp_path / "half.h5").array.dtype == np.float16
    with pytest.raises(BadInput, match="complex"):
        write(Volume(np.ones(GRID.shape_zyx, np.complex64), GRID), tmp_path / "a.nrrd")


def test_too_long_for_nifti(tmp_path: Path) -> None:
    volume = Volume.from_array(np.zeros((40000, 1, 1), np.uint8))
    with pytest.raises(BadInput, match="32767"):
        write(volume, tmp_path / "a.nii")
