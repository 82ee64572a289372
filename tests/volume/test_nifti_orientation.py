"""Which of a NIfTI header's matrices counts, that the others are told and kept; against nibabel and SimpleITK."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

import ctseg
from ctseg.errors import FileProblem
from ctseg.volume.convert import Conversion, convert

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
ARRAY = np.random.default_rng(0).integers(-1000, 1500, (11, 9, 7)).astype(np.int16)
SFORM = np.diag([-0.8, 0.9, 2.5, 1.0])
SFORM[:3, 3] = 40, -30, -100


def saved(
    path: Path, sform: np.ndarray | None, qform: np.ndarray | None, codes: tuple[int, int]
) -> Path:
    """A file with these matrices and the codes of sform and qform."""
    image = nibabel.Nifti1Image(ARRAY, np.eye(4))
    image.set_sform(SFORM if sform is None else sform, codes[0])
    image.set_qform(SFORM if qform is None else qform, codes[1], strip_shears=True)
    nibabel.save(image, path)
    return path


def moved(by: tuple[float, float, float]) -> np.ndarray:
    out = SFORM.copy()
    out[:3, 3] += by
    return out


def notes(path: Path) -> list[str]:
    with ctseg.open(path) as source:
        return list(source.metadata["notes"])


@pytest.mark.parametrize("codes", [(1, 0), (2, 1), (1, 1), (4, 1), (0, 1), (0, 4)])
def test_the_sform_counts_where_its_code_says_so(tmp_path: Path, codes: tuple[int, int]) -> None:
    path = saved(tmp_path / "a.nii", None, moved((5, 7, -9)), codes)
    there = ctseg.read(path).geometry.affine
    np.testing.assert_allclose(LPS @ there, nibabel.load(path).affine, atol=1e-5)
    assert ("disagree" in " ".join(notes(path))) == all(codes)


@pytest.mark.parametrize("seed", range(6))
def test_matrices_that_agree_are_not_spoken_of(tmp_path: Path, seed: int) -> None:
    """Also where single precision is worst: a quaternion of a turn by almost half."""
    turn = (
        Rotation.random(random_state=seed)
        if seed
        else Rotation.from_euler("z", 179.99, degrees=True)
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn.as_matrix() * (0.7, 0.7, 1.5) * (1, 1, (-1) ** seed)
    matrix[:3, 3] = 12.3, -45.6, 78.9
    path = saved(tmp_path / "a.nii.gz", matrix, matrix, (1, 1))
    assert notes(path) == []
    geometry = ctseg.read(path).geometry
    np.testing.assert_allclose(LPS @ geometry.affine, nibabel.load(path).affine, atol=1e-5)
    oracle = sitk.ReadImage(str(path))
    np.testing.assert_allclose(geometry.origin_xyz, oracle.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(geometry.matrix.ravel(), oracle.GetDirection(), atol=1e-5)


def test_a_file_without_matrices_is_read_as_itk_reads_it_and_said_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", None, None, (0, 0))
    geometry, oracle = ctseg.read(path).geometry, sitk.ReadImage(str(path))
    assert geometry.origin_xyz == oracle.GetOrigin()
    np.testing.assert_allclose(geometry.spacing_xyz, oracle.GetSpacing())
    assert geometry.matrix.ravel().tolist() == list(oracle.GetDirection())
    assert "which side is left" in notes(path)[0]


def patched(path: Path, offset: int, code: str, *values: float) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into(code, content, offset, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("codes", [(2, 0), (0, 1), (1, 1)])
def test_the_sign_of_a_voxel_size_is_ignored(tmp_path: Path, codes: tuple[int, int]) -> None:
    path = patched(saved(tmp_path / "a.nii", None, None, codes), 88, "<f", -2.5)
    volume = ctseg.read(path)
    np.testing.assert_allclose(LPS @ volume.geometry.affine, nibabel.load(path).affine, atol=1e-5)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    assert "negative voxel sizes" in notes(path)[0]


def test_voxel_sizes_against_the_sform(tmp_path: Path) -> None:
    path = patched(saved(tmp_path / "a.nii", None, None, (1, 0)), 88, "<f", 5.0)
    np.testing.assert_allclose(ctseg.read(path).spacing_xyz, (0.8, 0.9, 2.5))
    assert "pixdim 0.8 x 0.9 x 5" in notes(path)[0] and "the sform counts" in notes(path)[0]


@pytest.mark.parametrize("broken", [0.0, np.nan])
def test_an_sform_that_is_no_matrix_leaves_it_to_the_qform(tmp_path: Path, broken: float) -> None:
    path = saved(tmp_path / "a.nii", None, moved((1, 2, 3)), (1, 1))
    patched(path, 280, "<4f", *[broken] * 4)
    np.testing.assert_allclose(LPS @ ctseg.read(path).geometry.affine, moved((1, 2, 3)), atol=1e-5)
    assert "no matrix" in notes(path)[0]


def test_a_tilted_gantry_is_refused_and_straightened(tmp_path: Path) -> None:
    """As dcm2niix writes it: the sform is sheared, the qform the nearest rotation."""
    tilt = np.deg2rad(18.5)
    up, back = -3.84 * np.sin(tilt), 3.84 * np.cos(tilt)
    matrix = np.array([[-3.84, 0, 0, 123], [0, back, 0, -120], [0, up, 2.5, 10], [0, 0, 0, 1]])
    path = saved(tmp_path / "tilt.nii", matrix, matrix, (1, 1))
    with pytest.raises(FileProblem, match="sheared") as found:
        ctseg.read(path)
    assert "--option straighten=yes" in str(found.value.hint)
    geometry = ctseg.read(path, straighten="yes").geometry
    np.testing.assert_allclose(geometry.matrix.T @ geometry.matrix, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_written_on_the_grid_keeps_both_matrices(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / "scan.nii", None, moved((5, 7, -9)), (2, 1))
    with ctseg.open(path) as source:
        mask = ctseg.Volume(np.ones(source.geometry.shape_zyx, np.uint8), source.geometry)
        ctseg.write(mask, tmp_path / f"mask{suffix}", reference=source)
    one, two = nibabel.load(path), nibabel.load(tmp_path / f"mask{suffix}")
    for get in ("get_sform", "get_qform"):
        (first, code), (second, other) = (
            getattr(one, get)(coded=True),
            getattr(two, get)(coded=True),
        )
        np.testing.assert_array_equal(first, second)
        assert code == other
    np.testing.assert_allclose(
        sitk.ReadImage(str(path)).GetOrigin(), sitk.ReadImage(str(tmp_path / f"mask{suffix}")).GetOrigin()
    )  # fmt: skip


def test_another_grid_takes_nothing_over(tmp_path: Path) -> None:
    path = saved(tmp_path / "scan.nii", None, moved((5, 7, -9)), (2, 1))
    with ctseg.open(path) as source:
        part = source.geometry.sub((1, 0, 0), (4, 9, 11))
        mask = ctseg.Volume(np.ones(part.shape_zyx, np.uint8), part)
        ctseg.write(mask, tmp_path / "part.nii", reference=source)
    image = nibabel.load(tmp_path / "part.nii")
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    np.testing.assert_allclose(LPS @ image.affine, part.affine, atol=1e-4)


def test_converting_keeps_and_tells_them(tmp_path: Path) -> None:
    path = saved(tmp_path / "scan.nii", None, moved((5, 7, -9)), (2, 1))
    done = convert(Conversion(path, tmp_path / "copy.nii.gz"))
    assert "12.4 mm apart" in done.notes[0]
    image = nibabel.load(tmp_path / "copy.nii.gz")
    np.testing.assert_allclose(image.get_qform(), moved((5, 7, -9)), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj), ARRAY)


def test_a_part_of_a_scan_keeps_what_is_true_of_it(tmp_path: Path, oblique: ctseg.Volume) -> None:
    """The header that is written of any grid: qform and sform alike, as nibabel reads them."""
    ctseg.write(oblique, tmp_path / "a.nii")
    image = nibabel.load(tmp_path / "a.nii")
    wanted = LPS @ oblique.geometry.affine
    np.testing.assert_allclose(image.get_sform(), wanted, atol=1e-4)
    np.testing.assert_allclose(image.get_qform(), wanted, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(image.dataobj), oblique.array.T)
