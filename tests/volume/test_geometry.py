"""The grid of a scan, against SimpleITK."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from ctseg.errors import BadInput, GeometryMismatch
from ctseg.volume.geometry import Geometry, check_same
from ctseg.volume.volume import Volume


@pytest.mark.parametrize("letters", ["LPS", "RAS", "RPI", "PIR", "SLA", "AIL"])
@pytest.mark.parametrize("angle", [0, 20])
def test_orientation_is_what_itk_says(letters: str, angle: float) -> None:
    image = sitk.DICOMOrient(sitk.Image(3, 4, 5, sitk.sitkUInt8), letters)
    turn = Rotation.from_euler("xyz", [angle, -angle / 2, angle / 3], degrees=True).as_matrix()
    matrix = turn @ np.reshape(image.GetDirection(), (3, 3))
    geometry = Geometry((5, 4, 3), direction=tuple(map(tuple, matrix)))
    assert geometry.orientation == letters
    image.SetDirection(matrix.ravel().tolist())
    orient = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    assert geometry.orientation == orient
    assert sorted(axis for axis, _ in geometry.nearest_axes()) == [0, 1, 2]


def test_positions_and_parts_are_those_of_itk(oblique: Volume) -> None:
    grid = oblique.geometry
    image = sitk.GetImageFromArray(oblique.array)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(grid.matrix.ravel().tolist())
    for index in [(0, 0, 0), (7, 6, 5), (3.5, -2, 9)]:
        there = image.TransformContinuousIndexToPhysicalPoint(index)
        np.testing.assert_allclose(grid.position(index), there)
    part = grid.sub((1, 2, 3), (4, 3, 2))
    np.testing.assert_allclose(part.origin_xyz, image[3:5, 2:5, 1:5].GetOrigin())
    assert part.shape_zyx == (4, 3, 2)
    assert grid.voxel_volume_mm3 == pytest.approx(0.7 * 1.3 * 3.1)
    assert grid.spacing_zyx == (3.1, 1.3, 0.7)
    np.testing.assert_allclose(grid.affine @ [1, 1, 1, 1], [*grid.position((1, 1, 1)), 1])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"shape_zyx": (6, 7, 9)}, "shape"),
        ({"spacing_xyz": (0.7, 1.3, 3.2)}, "spacing"),
        ({"origin_xyz": (-120.5, 33.25, 700.2)}, "origin"),
        ({"direction": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))}, "direction"),
    ],
)
def test_what_differs_is_named(oblique: Volume, change: dict[str, Any], word: str) -> None:
    other = replace(oblique.geometry, **change)
    assert not oblique.geometry.agrees(other)
    with pytest.raises(GeometryMismatch, match=f"image and label .*: {word}"):
        check_same(oblique.geometry, other, names=("image", "label"))


def test_agreement_is_measured_in_voxels(oblique: Volume) -> None:
    grid = oblique.geometry
    check_same(grid, grid, names=("a", "b"))
    for share, same in ((0.9e-3, True), (1.2e-3, False)):
        moved = grid.position((share, 0, 0))
        assert grid.agrees(replace(grid, origin_xyz=tuple(moved))) is same
    x, y, z = grid.spacing_xyz
    for share, same in ((1e-4, True), (2e-4, False)):  # seven steps along x add up
        assert grid.agrees(replace(grid, spacing_xyz=(x * (1 + share), y, z))) is same


@pytest.mark.parametrize(
    "change",
    [
        {"shape_zyx": (0, 1, 1)},
        {"spacing_xyz": (1.0, 0.0, 1.0)},
        {"spacing_xyz": (1.0, float("nan"), 1.0)},
        {"origin_xyz": (0.0, float("inf"), 0.0)},
        {"direction": ((1.0, 0.1, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))},
    ],
)
def test_grids_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        replace(Geometry((2, 3, 4)), **change)


def test_a_volume_and_its_grid_belong_together() -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    volume = Volume.from_array(array, spacing_xyz=(1, 2, 3))
    assert volume.czyx.shape == (1, 2, 3, 4)
    assert (volume.origin_xyz, volume.direction[0]) == ((0, 0, 0), (1, 0, 0))
    with pytest.raises(BadInput, match="geometry"):
        Volume(array, Geometry((2, 3, 5)))
    for shape in ((2, 3), (1, 1, 2, 3, 4)):
        with pytest.raises(BadInput, match="axes"):
            Volume.from_array(np.zeros(shape))
