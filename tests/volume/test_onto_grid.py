"""Scans and labels brought onto the grid of another scan, held against SimpleITK."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.errors import GeometryMismatch
from ctseg.volume.geometry import Geometry, check_same
from ctseg.volume.io import open_volume, read
from ctseg.volume.lattice import on_common_grid, placement
from ctseg.volume.onto_grid import OntoGrid
from ctseg.volume.volume import Volume


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, result.output


def stored_as(volume: Volume, axes: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same voxels with their axes z, y, x in another order and direction, by hand."""
    array = np.transpose(volume.array, axes)[tuple(slice(None, None, s) for s in signs)]
    matrix = volume.geometry.matrix[:, ::-1][:, list(axes)] * signs  # columns z, y, x
    first = [0 if s > 0 else volume.array.shape[a] - 1 for a, s in zip(axes, signs, strict=True)]
    index = np.zeros(3)
    for axis, at in zip(axes, first, strict=True):
        index[axis] = at
    spacing = np.array(volume.geometry.spacing_zyx)[list(axes)]
    grid = Geometry(
        array.shape,
        tuple(spacing[::-1]),
        tuple(volume.geometry.position(index[::-1])),
        tuple(map(tuple, matrix[:, ::-1])),
    )
    return Volume(np.ascontiguousarray(array), grid)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, 1), (-1, -1, -1)])
def test_every_order_of_axes_comes_back(
    oblique: Volume, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    other = stored_as(oblique, axes, signs)
    common = on_common_grid(other, oblique, names=("a", "b"))
    np.testing.assert_array_equal(common.one.array, oblique.array)
    assert common.one.geometry.agrees(oblique.geometry)
    assert bool(common.notes) == (axes != (0, 1, 2) or signs != (1, 1, 1))
    part = replace(other, array=other.array[1:, 1:-1], geometry=other.geometry.sub(
        (1, 1, 0), (other.array.shape[0] - 1, other.array.shape[1] - 2, other.array.shape[2])))  # fmt: skip
    placed = on_common_grid(part, oblique, names=("a", "b")).one
    held = placed.array != 0
    np.testing.assert_array_equal(placed.array[held], oblique.array[held])
    assert held.sum() >= (part.array != 0).sum()


def test_either_map_may_reach_beyond_the_other(oblique: Volume) -> None:
    one = replace(
        oblique, array=oblique.array[:4], geometry=oblique.geometry.sub((0, 0, 0), (4, 7, 8))
    )
    two = replace(
        oblique, array=oblique.array[2:], geometry=oblique.geometry.sub((2, 0, 0), (4, 7, 8))
    )
    common = on_common_grid(one, two, names=("a", "b"))
    assert common.start == (-2, 0, 0)
    for made, kept in ((common.one, slice(0, 4)), (common.two, slice(2, 6))):
        expected = np.zeros_like(oblique.array)
        expected[kept] = oblique.array[kept]
        np.testing.assert_array_equal(made.array, expected)
        assert made.geometry.agrees(oblique.geometry)
    far = replace(one, geometry=oblique.geometry.sub((20, 0, 0), (4, 7, 8)))
    with pytest.raises(GeometryMismatch, match="no voxel in common"):
        on_common_grid(far, two, names=("a", "b"))


def test_other_spacings_shears_and_half_voxels_are_no_placement(oblique: Volume) -> None:
    grid = oblique.geometry
    half = grid.position((0.5, 0, 0))
    assert placement(replace(grid, origin_xyz=tuple(half)), grid) is None
    assert placement(replace(grid, spacing_xyz=(0.7, 1.3, 3.2)), grid) is None
    assert placement(Geometry((6, 7, 8)), grid) is None


def test_the_error_names_the_option_or_the_command(tmp_path: Path, oblique: Volume) -> None:
    grid = oblique.geometry
    aside = replace(grid, origin_xyz=tuple(grid.position((0.0025, 0, 0))))
    files = (tmp_path / "my label.seg.nrrd", tmp_path / "scan.nii.gz")
    with pytest.raises(GeometryMismatch, match=r"0\.0025 of a voxel apart") as caught:
        check_same(aside, grid, names=("a", "b"), files=files)
    assert "--grid-tolerance 0.0026" in caught.value.hint
    check_same(aside, grid, names=("a", "b"), tolerance=0.0026)
    command = f"ctseg data convert '{files[0]}' 'my label_on_grid.nii.gz' --like {files[1]}"
    assert command in caught.value.hint
    other = replace(grid, spacing_xyz=(0.5, 0.5, 0.5))
    with pytest.raises(GeometryMismatch) as caught:
        check_same(other, grid, names=("a", "b"), files=files)
    assert command in caught.value.hint and "--grid-tolerance" not in caught.value.hint


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A smooth image, a label map on its grid, and a scan on another, oblique grid."""
    z, y, x = np.mgrid[:14, :16, :18].astype(np.float32)
    image = (100 * np.sin(x / 3) + 40 * y + 25 * z - 300).astype(np.float32)
    label = ((x - 9) ** 2 + (y - 8) ** 2 + (z - 7) ** 2 < 30).astype(np.int16) * 3
    geometry = Geometry((14, 16, 18), (1.0, 1.2, 2.0), (-5.0, 3.0, 10.0))
    turn = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0))
    like = Geometry((20, 22, 19), (0.8, 0.9, 1.3), (-2.0, 1.0, 9.0), turn)
    ctseg.write(Volume(image, geometry), tmp_path / "image.nii.gz")
    ctseg.write(Volume(label, geometry), tmp_path / "label.nii.gz")
    ctseg.write(Volume(np.zeros((20, 22, 19), np.int16), like), tmp_path / "like.nii.gz")
    return tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", tmp_path / "like.nii.gz"


def test_labels_and_images_equal_those_of_simpleitk(
    tmp_path: Path, scans: tuple[Path, Path, Path]
) -> None:
    image, label, like = scans
    for source, kind, outside in (
        (image, sitk.sitkLinear, None),
        (label, sitk.sitkNearestNeighbor, 0),
    ):
        target = tmp_path / f"{source.name}.out.nii.gz"
        code, output = run("data", "convert", source, target, "--like", like)
        assert code == 0, output
        assert ("nearest" if outside == 0 else "linear") in output
        made = read(target)
        assert made.geometry.agrees(read(like).geometry)
        lowest = float(read(source).array.min()) if outside is None else outside
        oracle = sitk.GetArrayFromImage(
            sitk.Resample(
                sitk.ReadImage(str(source)),
                sitk.ReadImage(str(like)),
                sitk.Transform(),
                kind,
                lowest,
            )
        )
        if kind == sitk.sitkLinear:
            np.testing.assert_allclose(made.array, oracle, atol=1e-2)
        else:  # voxels on the border of two may fall to either
            assert (made.array != oracle).mean() < 0.002 and set(np.unique(made.array)) == {0, 3}


def test_voxels_that_are_shared_are_moved_as_they_are(
    tmp_path: Path, scans: tuple[Path, Path, Path]
) -> None:
    _, label, _ = scans
    crop = sitk.ReadImage(str(label))[2:16, 1:15, 1:14]
    sitk.WriteImage(
        sitk.PermuteAxes(sitk.Flip(crop, [True, False, False]), [1, 2, 0]), str(tmp_path / "c.nrrd")
    )
    code, output = run(
        "data", "convert", tmp_path / "c.nrrd", tmp_path / "d.nii.gz", "--like", label
    )
    assert code == 0 and "moved by whole voxels" in output
    np.testing.assert_array_equal(read(tmp_path / "d.nii.gz").array, read(label).array)


def test_options_of_like(tmp_path: Path, scans: tuple[Path, Path, Path]) -> None:
    image, label, like = scans
    out = tmp_path / "x.nii.gz"
    assert run("data", "convert", label, out, "--interpolation", "linear")[0] == 2
    assert run("data", "convert", label, out, "--like", like, "--interpolation", "cubic")[0] == 2
    assert run("data", "convert", label, out, "--like", like, "--spacing", "1 1 1")[0] == 2
    assert run("data", "convert", image, out, "--like", like, "--interpolation", "nearest")[0] == 0
    assert set(np.unique(read(out).array)) <= {0.0, *np.unique(read(image).array).tolist()}
    far = Volume(np.zeros((3, 3, 3), np.uint8), Geometry((3, 3, 3), origin_xyz=(900, 0, 0)))
    ctseg.write(far, tmp_path / "far.nii.gz")
    code, output = run(
        "data", "convert", label, tmp_path / "y.nii.gz", "--like", tmp_path / "far.nii.gz"
    )
    assert code == 2 and "lies outside the grid" in output
    assert not (tmp_path / "y.nii.gz").exists()


def test_evaluate_compares_the_same_mask_stored_otherwise(tmp_path: Path) -> None:
    mask = np.zeros((20, 24, 16), "u1")
    mask[5:12, 6:15, 4:10] = 1
    affine = np.array([[-0.8, 0, 0, 40], [0, -0.9, 0, 30], [0, 0, 2.5, -100], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "ref.nii.gz")
    nib.save(nib.as_closest_canonical(nib.load(tmp_path / "ref.nii.gz")), tmp_path / "ras.nii.gz")
    whole = sitk.ReadImage(str(tmp_path / "ref.nii.gz"))
    sitk.WriteImage(whole[3:18, 4:20, 2:14], str(tmp_path / "crop.seg.nrrd"))
    sitk.WriteImage(sitk.PermuteAxes(whole, [2, 0, 1]), str(tmp_path / "permuted.mha"))
    for name in ("ras.nii.gz", "crop.seg.nrrd", "permuted.mha"):
        for pair in ((name, "ref.nii.gz"), ("ref.nii.gz", name)):
            report = ctseg.evaluate(*(tmp_path / p for p in pair))
            assert report.dice == {"1": 1.0} and report.hd95 == {"1": 0.0}
            assert report.cases[0].notes
            (found,) = report.cases[0].labels
            assert found.predicted_ml == pytest.approx(7 * 9 * 6 * 0.8 * 0.9 * 2.5 / 1000)
    half = whole[0:9, 0:24, 0:16]  # of 7 voxels along x, from 5 on, it holds 4
    sitk.WriteImage(half, str(tmp_path / "half.nrrd"))
    report = ctseg.evaluate(tmp_path / "half.nrrd", tmp_path / "ref.nii.gz")
    assert report.dice["1"] == pytest.approx(2 * 4 / (4 + 7))
    assert "outside it counts as background" in report.cases[0].notes[0]
    assert ctseg.evaluate(tmp_path / "ref.nii.gz", tmp_path / "half.nrrd").dice[
        "1"
    ] == pytest.approx(8 / 11)
    part = ctseg.evaluate(tmp_path / "ref.nii.gz", tmp_path / "crop.seg.nrrd", slices=(2, 4))
    assert part.cases[0].labels[0].reference_ml == pytest.approx(7 * 9 * 2 * 0.8 * 0.9 * 2.5 / 1000)


def test_evaluate_takes_a_rounded_origin_with_the_option(tmp_path: Path) -> None:
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[2:4, 2:5, 2:6] = 1
    exact = Geometry((6, 7, 8), (0.7, 0.7, 3.0), (-250.48828, -170.51172, -830.3237))
    ctseg.write(Volume(mask, exact), tmp_path / "a.nrrd")
    rounded = replace(exact, origin_xyz=(-250.49, -170.51, -830.32))
    ctseg.write(Volume(mask, rounded), tmp_path / "b.nrrd")
    code, output = run("evaluate", tmp_path / "b.nrrd", tmp_path / "a.nrrd")
    assert code == 2 and "--grid-tolerance 0.0025" in output
    code, output = run(
        "evaluate", tmp_path / "b.nrrd", tmp_path / "a.nrrd", "--grid-tolerance", "0.0025"
    )
    assert code == 0 and "0.0025 of a voxel beside" in output


def test_half_precision_is_interpolated_too(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 6, 7, 8)).astype(np.float16)
    target = Geometry((5, 6, 7), (1.1, 1.1, 1.1), (0.3, 0.3, 0.3))
    made = []
    for dtype in (np.float16, np.float32):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["raw"] = values.astype(dtype)
        with contextlib.closing(
            OntoGrid(open_volume(tmp_path / "a.h5"), target, "linear")
        ) as source:
            made.append(source.read())
    assert made[0].dtype == np.float16
    np.testing.assert_allclose(made[0], made[1], atol=2e-3)
