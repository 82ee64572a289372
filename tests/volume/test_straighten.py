"""Sheared grids of NIfTI, NRRD and MetaImage on one that is not sheared, against SimpleITK's resampling."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import ctseg
from ctseg.errors import BadInput, FileProblem
from ctseg.volume.spool import by_region

SHAPE = (6, 8, 10)
MATRICES = {
    "gantry": np.array([[-1.0, 0, 0], [0, 0.9, 0], [0, -0.3, 2.0]]),
    "rows": np.array([[0.8, 0.2, 0], [0, 0.9, 0], [0, 0, 2.5]]),
    "all": np.array([[0.8, 0.2, 0.3], [0.1, -0.9, 0.4], [0, 0.2, 2.5]]),
}
ORIGIN = np.array([3.0, -20.0, 7.0])


def written(folder: Path, array: np.ndarray, matrix: np.ndarray, suffix: str) -> Path:
    """A file whose grid is that matrix in LPS; only nibabel writes sheared ones, the others are written here."""
    path = folder / f"sheared{suffix}"
    if suffix.startswith(".nii"):
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = matrix, ORIGIN
        nibabel.save(nibabel.Nifti1Image(array.T, np.diag([-1.0, -1, 1, 1]) @ affine), path)
        return path
    z, y, x = array.shape
    kind = {"int16": ("short", "MET_SHORT"), "uint8": ("uchar", "MET_UCHAR")}[array.dtype.name]
    if suffix == ".nrrd":
        columns = " ".join("(" + ",".join(map(str, column)) + ")" for column in matrix.T)
        header = (
            f"NRRD0005\ntype: {kind[0]}\ndimension: 3\nspace: left-posterior-superior\nsizes: {x} {y} {z}\n"
            f"space directions: {columns}\nendian: little\nencoding: raw\nspace origin: (3,-20,7)\n\n"
        )
    else:
        spacing = np.linalg.norm(matrix, axis=0)
        words = " ".join(map(str, (matrix / spacing).T.ravel()))
        header = (
            f"NDims = 3\nDimSize = {x} {y} {z}\nElementType = {kind[1]}\n"
            f"ElementSpacing = {' '.join(map(str, spacing))}\n"
            f"TransformMatrix = {words}\nOffset = 3 -20 7\nElementDataFile = LOCAL\n"
        )
    path.write_bytes(header.encode() + array.tobytes())
    return path


def oracle(array: np.ndarray, matrix: np.ndarray, grid: ctseg.Volume, how: int) -> np.ndarray:
    """The scan on a grid by SimpleITK, NaN where it does not reach."""
    image = sitk.GetImageFromArray(array.astype(np.float64))
    spacing = np.linalg.norm(matrix, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix / spacing).ravel().tolist())
    image.SetOrigin(ORIGIN.tolist())
    geometry = grid.geometry
    made = sitk.Resample(
        image, geometry.shape_zyx[::-1], sitk.Transform(), how, geometry.origin_xyz, geometry.spacing_xyz,
        geometry.matrix.ravel().tolist(), np.nan,
    )  # fmt: skip
    out = sitk.GetArrayFromImage(made)
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape_zyx), indexing="ij"), -1)[..., ::-1]
    stored = (geometry.position(index) - ORIGIN) @ np.linalg.inv(matrix).T
    inside = ((stored > -1e-6) & (stored < np.array(array.shape)[::-1] - 1 + 1e-6)).all(-1)
    return np.where(inside, out, np.nan)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_values_are_those_of_itk(tmp_path: Path, suffix: str, name: str) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    path = written(tmp_path, array, MATRICES[name], suffix)
    with pytest.raises(FileProblem, match="sheared") as found:
        ctseg.read(path)
    assert "straighten=yes" in str(found.value.hint)
    made = ctseg.read(path, straighten="yes")
    wanted = oracle(array, MATRICES[name], made, sitk.sitkLinear)
    there = np.isfinite(wanted)
    assert there.sum() > array.size // 3
    np.testing.assert_allclose(made.array[there], wanted[there], atol=0.51)
    assert made.array.dtype == np.int16
    assert "straightened" in made.metadata["notes"][-1]


@pytest.mark.parametrize("name", MATRICES)
def test_the_grid_holds_every_voxel(tmp_path: Path, name: str) -> None:
    array = np.zeros(SHAPE, np.int16)
    made = ctseg.read(written(tmp_path, array, MATRICES[name], ".nrrd"), straighten="yes").geometry
    corners = np.stack(np.meshgrid(*([0, n - 1] for n in SHAPE[::-1]), indexing="ij"), -1).reshape(
        -1, 3
    )
    there = corners @ MATRICES[name].T + ORIGIN - np.asarray(made.origin_xyz)
    index = np.linalg.solve(made.affine[:3, :3], there.T).T
    assert (index > -1e-6).all() and (index < np.array(made.shape_zyx)[::-1] - 1 + 1e-6).all()


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_a_label_map_keeps_its_values(tmp_path: Path, suffix: str) -> None:
    array = np.random.default_rng(0).choice([0, 3, 200], SHAPE).astype(np.uint8)
    path = written(tmp_path, array, MATRICES["gantry"], suffix)
    made = ctseg.read(path, straighten="nearest")
    assert set(np.unique(made.array)) == {0, 3, 200}
    wanted = oracle(array, MATRICES["gantry"], made, sitk.sitkNearestNeighbor)
    there = np.isfinite(wanted)
    assert (
        made.array[there] == wanted[there]
    ).mean() > 0.99  # places halfway between two rows may go either way


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_parts_are_those_of_the_whole(tmp_path: Path, suffix: str) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    path = written(tmp_path, array, MATRICES["all"], suffix)
    with ctseg.open(path, straighten="yes") as source:
        whole = source.read()
        np.testing.assert_array_equal(source.read((2, 5)), whole[:, 2:5])
        np.testing.assert_array_equal(
            source.read_box((1, 2, 3), (4, 6, 7)), whole[:, 1:4, 2:6, 3:7]
        )
        part = by_region(source, tmp_path)
        np.testing.assert_array_equal(part.read((2, 5)), whole[:, 2:5])
        part.close()


def test_a_grid_that_is_not_sheared_stays(tmp_path: Path, oblique: ctseg.Volume) -> None:
    for suffix in (".nii", ".nrrd", ".mha"):
        ctseg.write(oblique, tmp_path / f"a{suffix}")
        made = ctseg.read(tmp_path / f"a{suffix}", straighten="yes")
        np.testing.assert_array_equal(made.array, oblique.array)
        assert made.geometry.difference(oblique.geometry) is None


def test_another_value_is_refused(tmp_path: Path, oblique: ctseg.Volume) -> None:
    ctseg.write(oblique, tmp_path / "a.mha")
    with pytest.raises(BadInput, match="'yes', 'nearest' or 'no'"):
        ctseg.read(tmp_path / "a.mha", straighten="cubic")
