"""Planes of a scan, with SimpleITK as the judge of canonical axes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from ctseg.errors import BadInput, GeometryMismatch
from ctseg.report.planes import (
    SOFT_TISSUE,
    best_point,
    canonical,
    canonical_spacing_zyx,
    cut,
    on_grid,
    window_of,
)
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry
from ctseg.volume.volume import Volume

AXES = [
    np.eye(3)[list(order)] * np.array(signs)
    for order in itertools.permutations(range(3))
    for signs in ((1, 1, 1), (-1, 1, -1), (1, -1, 1))
]


@pytest.mark.parametrize("matrix", AXES, ids=str)
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_canonical_axes_are_those_of_simpleitk(matrix: np.ndarray, tilt: float) -> None:
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    direction = turn @ matrix
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    geometry = Geometry((4, 5, 6), (0.7, 0.8, 3.0), (1.0, 2.0, 3.0), direction)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_xyz)
    image.SetDirection(direction.ravel().tolist())
    expected = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(canonical(array, geometry), sitk.GetArrayViewFromImage(expected))
    assert canonical_spacing_zyx(geometry) == pytest.approx(expected.GetSpacing()[::-1])


def test_channels_stay_in_front() -> None:
    geometry = Geometry((2, 3, 4), direction=((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0)))
    assert canonical(np.zeros((5, 2, 3, 4)), geometry).shape == (5, 2, 4, 3)


def test_pictures_follow_the_radiological_convention() -> None:
    array = np.zeros((3, 4, 5))
    array[2, 0, 4] = 1  # head, front, left
    axial = cut(array, (3.0, 2.0, 1.0), "axial", 2)
    assert axial.pixels[0, -1] == 1  # front on top, the patient's left on the right
    assert axial.sides == ("R", "L", "A", "P")
    assert axial.size_mm == (8.0, 5.0)
    coronal = cut(array, (3.0, 2.0, 1.0), "coronal", 0)
    assert coronal.pixels[0, -1] == 1  # head on top
    assert coronal.size_mm == (9.0, 5.0)
    sagittal = cut(array, (3.0, 2.0, 1.0), "sagittal", 4)
    assert sagittal.pixels[0, 0] == 1  # front on the left
    assert sagittal.size_mm == (9.0, 8.0)


def test_a_small_label_is_not_outvoted_by_a_large_one() -> None:
    label = np.zeros((20, 10, 10), np.uint8)
    label[2:18, 1:9, 1:9] = 1
    label[14, 3:5, 3:5] = 2
    assert best_point(classes_task({"organ": 1, "lesion": 2}), label) == (14, 4, 4)
    assert best_point(classes_task({"organ": 1}), np.zeros((4, 6, 8), np.uint8)) == (2, 3, 4)


def test_windows() -> None:
    rng = np.random.default_rng(0)
    assert window_of(rng.normal(0, 400, (8, 8, 8)).clip(-1000, 1000)) == SOFT_TISSUE
    low, high = window_of(rng.uniform(0, 255, (16, 16, 16)))
    assert 0 <= low < 10
    assert 245 < high <= 255
    assert window_of(np.full((2, 2, 2), 7.0)) == (7.0, 8.0)
    assert window_of(np.full((2, 2, 2), np.nan)) == (0.0, 1.0)
    low, high = window_of(
        np.where(rng.random((9, 9, 9)) < 0.5, np.nan, 3e6 * rng.random((9, 9, 9)))
    )
    assert 0 <= low < high <= 3e6


def test_layers_must_lie_on_the_scans_grid() -> None:
    scan = Volume.from_array(np.zeros((3, 4, 5)))
    moved = Volume.from_array(np.zeros((3, 4, 5), np.uint8), origin_xyz=(9.0, 0.0, 0.0))
    with pytest.raises(GeometryMismatch, match="the prediction"):
        on_grid(scan, {"prediction": moved})
    with pytest.raises(BadInput, match="reference"):
        on_grid(scan, {"reference": np.zeros((3, 4, 4), np.uint8)})
