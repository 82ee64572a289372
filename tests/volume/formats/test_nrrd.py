"""NRRD: detached headers, byte order, space directions, and slices of raw files without reading the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctseg.errors import FileProblem
from ctseg.volume.io import open_volume, read
from ctseg.volume.volume import Volume

HEADER = """NRRD0004
# a comment: not a field
type: short
dimension: 3
space: right-anterior-superior
sizes: 8 7 6
space directions: (0.5,0,0) (0,2,0) (0,0,3)
kinds: domain domain domain
endian: {endian}
encoding: raw
space origin: (1,2,3)
note:=encoding: gzip
{more}
"""


@pytest.mark.parametrize("endian", ["little", "big"])
def test_byte_order_and_space(tmp_path: Path, oblique: Volume, endian: str) -> None:
    path = tmp_path / "a.nrrd"
    stored = oblique.array.astype("<i2" if endian == "little" else ">i2").tobytes()
    path.write_bytes(HEADER.format(endian=endian, more="").encode() + stored)
    with open_volume(path) as source:
        assert source.by_region
        np.testing.assert_array_equal(source.read()[0], oblique.array)
        np.testing.assert_array_equal(source.read((4, 6))[0], oblique.array[4:])
        assert source.geometry.orientation == "RAS"
        oracle = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(oracle), oblique.array)
        assert source.geometry.origin_xyz == oracle.GetOrigin()
        assert source.geometry.spacing_xyz == oracle.GetSpacing()


def test_detached_header(tmp_path: Path, oblique: Volume) -> None:
    (tmp_path / "a.nhdr").write_text(HEADER.format(endian="little", more="data file: a.raw"))
    (tmp_path / "a.raw").write_bytes(oblique.array.tobytes())
    with open_volume(tmp_path / "a.nhdr") as source:
        assert source.by_region
        np.testing.assert_array_equal(source.read((1, 3))[0], oblique.array[1:3])
    (tmp_path / "a.raw").unlink()
    with pytest.raises(FileProblem, match=r"a\.nhdr"):
        read(tmp_path / "a.nhdr")


def test_four_axes_are_refused(tmp_path: Path) -> None:
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))] * 2)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(FileProblem, match="4 axes"):
        read(tmp_path / "a.nrrd")


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.complex64))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(FileProblem, match="complex"):
        read(tmp_path / "a.nrrd")


def test_voxels_at_the_end_of_a_file_cut_short(tmp_path: Path, oblique: Volume) -> None:
    path, header = tmp_path / "a.nrrd", HEADER.format(endian="little", more="byte skip: -1\n")
    stored = header.encode() + oblique.array.tobytes()
    path.write_bytes(stored)
    np.testing.assert_array_equal(read(path).array, oblique.array)
    path.write_bytes(stored[:-10])  # the header would be read as voxels
    with pytest.raises(FileProblem, match="truncated"):
        read(path)
