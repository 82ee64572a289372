"""NIfTI's own traps: four axes, colour, scaling, slight shear, both versions and byte orders."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.io import open_volume, read, write
from ctseg.volume.volume import Volume

Patch = Callable[[bytearray], None]


def patched(path: Path, volume: Volume, patch: Patch) -> Path:
    write(volume, path)
    content = bytearray(path.read_bytes())
    patch(content)
    path.write_bytes(content)
    return path


def sform(matrix: np.ndarray, *, qform_code: int = 0) -> Patch:
    def patch(content: bytearray) -> None:
        struct.pack_into("<hh", content, 252, qform_code, 1)
        struct.pack_into("<12f", content, 280, *matrix[:3].ravel())

    return patch


def test_four_axes_need_a_word(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    image = sitk.JoinSeries([sitk.GetImageFromArray(part) for part in array])
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    with pytest.raises(FileProblem, match="four axes") as found:
        read(tmp_path / "a.nii.gz")
    assert 'channels="last"' in str(found.value.hint)
    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz", channels="last").array, array)
    source = open_volume(tmp_path / "a.nii.gz", channels="last")
    np.testing.assert_array_equal(source.read((1, 3)), array[:, 1:3])
    with pytest.raises(BadInput, match="'last' or absent"):
        read(tmp_path / "a.nii.gz", channels="first")


@pytest.mark.parametrize("offset", [1e11, 2.0**31 + 512])
def test_voxels_far_behind_the_header_are_refused(tmp_path: Path, offset: float) -> None:
    volume = Volume.from_array(np.zeros((3, 4, 5), np.int16))

    def far(content: bytearray) -> None:
        struct.pack_into("<f", content, 108, offset)

    path = patched(tmp_path / "a.nii", volume, far)
    with pytest.raises(FileProblem, match="its voxels start at byte"):
        open_volume(path)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(FileProblem, match="its voxels start at byte"):
        open_volume(packed)


def test_a_fourth_axis_of_one_is_no_axis(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((1, 3, 4, 5)).astype(np.float32)
    image = sitk.JoinSeries([sitk.GetImageFromArray(part) for part in array])
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(read(tmp_path / "a.nii.gz").array, array[0])


@pytest.mark.parametrize("vector", [np.uint8, np.float32])
def test_colour_and_vectors_are_refused(tmp_path: Path, vector: type) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), vector), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    with pytest.raises(FileProblem):
        read(tmp_path / "a.nii.gz", channels="last")


def test_scaled_values(tmp_path: Path, oblique: Volume) -> None:
    path = patched(
        tmp_path / "a.nii", oblique, lambda c: struct.pack_into("<ff", c, 112, 0.5, -1024.0)
    )
    back = read(path).array
    oracle = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert back.dtype == oracle.dtype == np.float32
    np.testing.assert_allclose(back, oracle)
    np.testing.assert_allclose(back, oblique.array * 0.5 - 1024)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_slope_of_nothing_scales_nothing(tmp_path: Path, oblique: Volume, slope: float) -> None:
    path = patched(
        tmp_path / "a.nii", oblique, lambda c: struct.pack_into("<ff", c, 112, slope, 7.0)
    )
    np.testing.assert_array_equal(read(path).array, oblique.array)


def test_big_endian(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "little.nii")
    header = bytearray((tmp_path / "little.nii").read_bytes()[:352])
    little, big = [
        [(order + code, at) for code, at in (
            ("i", 0), ("8h", 40), ("2h", 70), ("8f", 76), ("3f", 108), ("2h", 252), ("6f", 256), ("12f", 280),
        )]
        for order in "<>"
    ]  # fmt: skip
    swapped = bytearray(header)
    for (one, at), (other, _) in zip(little, big, strict=True):
        struct.pack_into(other, swapped, at, *struct.unpack_from(one, header, at))
    (tmp_path / "big.nii").write_bytes(bytes(swapped) + oblique.array.astype(">i2").tobytes())
    back = read(tmp_path / "big.nii")
    np.testing.assert_array_equal(back.array, oblique.array)
    assert back.array.dtype == np.int16
    assert back.geometry.difference(oblique.geometry) is None


def test_version_2(tmp_path: Path, oblique: Volume) -> None:
    z, y, x = oblique.array.shape
    header = bytearray(544)
    struct.pack_into("<i8s2h8q", header, 0, 540, b"n+2\0\r\n\032\n", 4, 16, 3, x, y, z, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1, 0.7, 1.3, 3.1, 1, 1, 1, 1)
    struct.pack_into("<q2d", header, 168, 544, 1.0, 0.0)
    struct.pack_into("<2i", header, 344, 0, 1)
    affine = np.diag([-1.0, -1, 1, 1]) @ oblique.geometry.affine
    struct.pack_into("<12d", header, 400, *affine[:3].ravel())
    struct.pack_into("<i", header, 500, 2)
    (tmp_path / "a.nii").write_bytes(bytes(header) + oblique.array.tobytes())
    back = read(tmp_path / "a.nii")
    np.testing.assert_array_equal(back.array, oblique.array)
    assert back.geometry.difference(oblique.geometry) is None


@pytest.mark.parametrize("shear", [8e-4, 1.5e-3])
def test_a_slight_shear_is_straightened(tmp_path: Path, shear: float) -> None:
    volume = Volume.from_array(np.zeros((4, 5, 6), np.uint8))
    matrix = np.diag([-1.0, -2, 3, 1])
    matrix[0, 1] = shear
    path = patched(tmp_path / "a.nii", volume, sform(matrix))
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(path))  # what SimpleITK does of itself
    geometry = read(path).geometry
    np.testing.assert_allclose(geometry.matrix.T @ geometry.matrix, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(geometry.matrix, np.eye(3), atol=shear)
    np.testing.assert_allclose(geometry.spacing_xyz, (1, 2, 3), rtol=1e-6)


def test_a_real_shear_is_refused(tmp_path: Path) -> None:
    volume = Volume.from_array(np.zeros((4, 5, 6), np.uint8))
    matrix = np.diag([-1.0, -2, 3, 1])
    matrix[0, 1] = 0.2
    path = patched(tmp_path / "a.nii", volume, sform(matrix))
    with pytest.raises(FileProblem, match="orthonormal") as found:
        read(path)
    assert str(path) in found.value.message


def test_units_of_the_header(tmp_path: Path, oblique: Volume) -> None:
    def micrometres(content: bytearray) -> None:
        content[123] = 3

    path = patched(tmp_path / "a.nii", oblique, micrometres)
    geometry = read(path).geometry
    assert geometry.unit == "um"
    np.testing.assert_allclose(
        geometry.spacing_xyz, np.array(oblique.spacing_xyz) / 1000, rtol=1e-6
    )
    np.testing.assert_allclose(
        geometry.spacing_xyz, sitk.ReadImage(str(path)).GetSpacing(), rtol=1e-6
    )


def test_a_gzip_without_the_suffix_is_read(tmp_path: Path, oblique: Volume) -> None:
    write(oblique, tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    np.testing.assert_array_equal(read(tmp_path / "a.nii").array, oblique.array)


def test_two_axes_are_no_volume(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5), np.uint8)), str(tmp_path / "a.nii"))
    with pytest.raises(FileProblem, match="2 axes"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_an_offset_within_the_header_means_right_behind_it(
    tmp_path: Path, oblique: Volume, offset: float
) -> None:
    """As niftilib has it, which reads the file for ITK."""
    write(oblique, tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<f", content, 108, offset)
    (tmp_path / "b.nii").write_bytes(content[:348] + content[352:])
    oracle = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "b.nii")))
    np.testing.assert_array_equal(oracle, oblique.array)
    np.testing.assert_array_equal(read(tmp_path / "b.nii").array, oracle)
