"""Preprocessing steps against SimpleITK and SciPy, and their way back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ctseg.config import PreprocessConfig
from ctseg.data.pipeline import Pipeline, follow_label
from ctseg.data.steps import (
    Clip,
    Crop,
    Normalise,
    NormaliseCase,
    Orient,
    Resample,
    Rescale,
    parse_step,
    step_to_dict,
)
from ctseg.errors import ConfigError, UnknownName
from ctseg.volume.geometry import Geometry


def oblique(seed: int, shape=(7, 9, 11)) -> Geometry:
    """A grid with permuted, flipped and slightly turned axes."""
    rng = np.random.default_rng(seed)
    matrix = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    turned = Rotation.from_euler("zyx", rng.uniform(-12, 12, 3), degrees=True).as_matrix() @ matrix
    return Geometry(shape, tuple(rng.uniform(0.5, 3, 3)), tuple(rng.uniform(-90, 90, 3)), turned)


def as_sitk(array, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_xyz)
    image.SetOrigin(geometry.origin_xyz)
    image.SetDirection(geometry.matrix.ravel().tolist())
    return image


@pytest.mark.parametrize("seed", range(12))
def test_orient_agrees_with_simpleitk(undo, seed):
    geometry = oblique(seed)
    array = np.random.default_rng(seed).integers(-1000, 1000, geometry.shape_zyx).astype(np.int16)
    expected = sitk.DICOMOrient(as_sitk(array, geometry), "LPS")
    moved = Orient().image(array[None], geometry, {})[0]
    grid = Orient().grid(geometry, {})
    np.testing.assert_array_equal(moved, sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(grid.spacing_xyz, expected.GetSpacing())
    np.testing.assert_allclose(grid.origin_xyz, expected.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(grid.matrix.ravel(), expected.GetDirection(), atol=1e-12)
    assert grid.orientation == "LPS"
    np.testing.assert_array_equal(undo(Orient(), moved[None], geometry, {}, np.zeros(1))[0], array)


@pytest.mark.parametrize("order", [1, 3])
def test_resample_keeps_a_smooth_function_in_its_place(order):
    """A ramp in millimetres stays that ramp on the new grid, away from the border."""
    geometry = oblique(3, (20, 22, 24))
    z, y, x = np.meshgrid(*map(np.arange, geometry.shape_zyx), indexing="ij")
    positions = geometry.position(np.stack([x, y, z], -1))
    ramp = (positions @ np.array([0.3, -0.2, 0.5])).astype(np.float32)
    step = Resample((1.1, 1.3, 0.9), order=order, coarse_order=order)
    grid = step.grid(geometry, {})
    out = step.image(ramp[None], geometry, {})[0]
    assert out.shape == grid.shape_zyx
    z, y, x = np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij")
    expected = grid.position(np.stack([x, y, z], -1)) @ np.array([0.3, -0.2, 0.5])
    inner = (slice(4, -4),) * 3
    np.testing.assert_allclose(out[inner], expected[inner], atol=2e-3)


def test_linear_resampling_agrees_with_scipy():
    array = np.random.default_rng(0).normal(size=(9, 12, 15)).astype(np.float32)
    geometry = Geometry(array.shape, (1.0, 1.0, 1.0))
    step = Resample((0.5, 1.5, 2.0), order=1, coarse_order=1)
    shape = step.grid(geometry, {}).shape_zyx
    factors = np.asarray(shape) / array.shape
    expected = ndimage.zoom(array, factors, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(step.image(array[None], geometry, {})[0], expected, atol=1e-5)


def test_a_coarse_axis_is_resampled_apart():
    geometry = Geometry((6, 20, 20), (0.5, 0.5, 3.0))
    step = Resample((1.0, 1.0, 1.5), order=3)
    assert step.orders(geometry, 3) == (0, 3, 3)
    assert step.orders(geometry, 1) == (0, 1, 1)


def test_identical_spacing_changes_nothing():
    array = np.random.default_rng(0).normal(size=(1, 5, 6, 7)).astype(np.float32)
    geometry = Geometry((5, 6, 7), (0.7, 0.8, 2.5))
    step = Resample(geometry.spacing_xyz)
    np.testing.assert_array_equal(step.image(array, geometry, {}), array)
    assert step.grid(geometry, {}).agrees(geometry)


def test_crop_keeps_the_box_and_its_place(undo):
    array = np.zeros((1, 10, 12, 14), np.float32)
    array[0, 3:7, 4:6, 5:13] = 1
    geometry = oblique(1, (10, 12, 14))
    step = Crop(margin_mm=0.0)
    record = step.fit(array, geometry)
    assert record == {"box_zyx": [[3, 7], [4, 6], [5, 13]]}
    grid = step.grid(geometry, record)
    np.testing.assert_allclose(grid.position((0, 0, 0)), geometry.position((5, 4, 3)))
    cropped = step.image(array, geometry, record)
    assert cropped.all()
    np.testing.assert_array_equal(undo(step, cropped, geometry, record, np.zeros(1)), array)


def test_crop_of_an_empty_scan_keeps_all():
    array = np.zeros((1, 3, 4, 5), np.float32)
    step = Crop()
    assert step.fit(array, Geometry((3, 4, 5)))["box_zyx"] == [[0, 3], [0, 4], [0, 5]]


def test_values():
    array = np.array([-2000.0, 0.0, 50.0, 4000.0], np.float32).reshape(1, 1, 2, 2)
    geometry = Geometry((1, 2, 2))
    clipped = Clip((-100.0,), (300.0,)).image(array, geometry, {})
    np.testing.assert_array_equal(clipped.ravel(), [-100, 0, 50, 300])
    scaled = Normalise((100.0,), (50.0,)).image(clipped, geometry, {})
    np.testing.assert_allclose(scaled.ravel(), [-4, -2, -1, 4])
    mapped = Rescale(-100, 300, -1, 1).image(array, geometry, {})
    np.testing.assert_allclose(mapped.ravel(), [-1, -0.5, -0.25, 1])


def test_numbers_for_other_channels_than_the_scan_has_are_refused():
    """Two ranges would make two channels of one."""
    array, geometry = np.zeros((1, 2, 3, 4), np.float32), Geometry((2, 3, 4))
    for step in (Clip((-1.0, -2.0), (1.0, 2.0)), Normalise((0.0, 0.0), (1.0,))):
        assert step.image(np.repeat(array, 2, 0), geometry, {}).shape == (2, 2, 3, 4)
        with pytest.raises(ConfigError, match=r"2 numbers .* for 1 channels"):
            step.image(array, geometry, {})


def test_normalise_case_has_mean_zero_and_deviation_one():
    rng = np.random.default_rng(0)
    array = rng.normal([[[[40]]], [[[900]]]], [[[[7]]], [[[300]]]], (2, 6, 7, 8)).astype(np.float32)
    step = NormaliseCase()
    record = step.fit(array, Geometry((6, 7, 8)))
    out = step.image(array, Geometry((6, 7, 8)), record)
    np.testing.assert_allclose(out.mean((1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(out.std((1, 2, 3)), 1, atol=1e-4)


def test_normalise_case_over_non_zero_voxels_leaves_zero_alone():
    array = np.zeros((1, 4, 4, 4), np.float32)
    array[0, 1:3, 1:3, 1:3] = np.arange(1, 9).reshape(2, 2, 2)
    step = NormaliseCase(nonzero=True)
    out = step.image(array, Geometry((4, 4, 4)), step.fit(array, Geometry((4, 4, 4))))
    assert (out[array == 0] == 0).all()
    np.testing.assert_allclose(out[array != 0].mean(), 0, atol=1e-6)


def test_a_constant_scan_is_normalised_without_dividing_by_zero():
    array = np.full((1, 3, 3, 3), 7, np.float32)
    step = NormaliseCase()
    out = step.image(array, Geometry((3, 3, 3)), step.fit(array, Geometry((3, 3, 3))))
    assert np.isfinite(out).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), spacing=st.floats(0.6, 2.5))
def test_labels_come_back_from_orientation_and_crop_exactly_and_from_resampling_nearly(
    take_back, seed, spacing
):
    geometry = oblique(seed, (12, 14, 13))
    z, y, x = np.meshgrid(*map(np.arange, geometry.shape_zyx), indexing="ij")
    centre = np.array([6, 7, 6.5])
    ball = sum((g - c) ** 2 for g, c in zip((z, y, x), centre, strict=True)) < 20
    label = np.where(ball, np.where(z < 6, 1, 2), 0).astype(np.uint8)[None]
    scan = label.astype(np.float32)
    exact = Pipeline([Orient(), Crop(margin_mm=1)])
    _, applied = exact.image(scan, geometry)
    np.testing.assert_array_equal(
        take_back(applied, follow_label(applied, label), np.zeros(1)), label
    )
    sizes = tuple(spacing * s for s in Orient().grid(geometry, {}).spacing_xyz)
    finer = Pipeline([Orient(), Resample(sizes, order=1, coarse_order=1)])
    _, applied = finer.image(scan, geometry)
    returned = take_back(applied, follow_label(applied, label), np.zeros(1))
    for value in (1, 2):
        one, two = returned == value, label == value
        dice = 2 * (one & two).sum() / (one.sum() + two.sum())
        assert dice > (0.9 if spacing <= 1 else 0.6)


def test_a_trail_survives_json():
    geometry = oblique(2, (9, 8, 7))
    scan = np.random.default_rng(0).normal(size=(1, 9, 8, 7)).astype(np.float32)
    pipeline = Pipeline([Orient(), Crop(above=0.5), Resample((1.0, 1.0, 1.0)), NormaliseCase()])
    _, applied = pipeline.image(scan, geometry)
    assert pipeline.restore(applied.to_dict()) == applied


def test_steps_are_read_from_plain_data_and_refused_where_wrong():
    step = parse_step({"kind": "clip", "low": [-160], "high": [240]})
    assert step == Clip((-160.0,), (240.0,))
    assert parse_step(step_to_dict(step)) == step
    with pytest.raises(UnknownName, match="Did you mean 'resample'"):
        parse_step({"kind": "resampel"})
    with pytest.raises(ConfigError, match="Did you mean 'spacing_xyz'"):
        parse_step({"kind": "resample", "spacing_xy": [1, 1, 1]})
    with pytest.raises(ConfigError, match="kind"):
        parse_step({})
    for low, high in (([240], [-160]), ([0, 0, 0], [1, 1]), ([], []), ([float("nan")], [1])):
        with pytest.raises(ConfigError, match=r"clip|rises"):
            parse_step({"kind": "clip", "low": low, "high": high})
    with pytest.raises(ConfigError, match="2 and 3 channels"):
        parse_step({"kind": "normalise", "mean": [0, 0], "std": [1, 1, 1]})
    with pytest.raises(ConfigError, match="positive"):
        parse_step({"kind": "normalise", "std": [0.0]})
    with pytest.raises(ConfigError, match="negative"):
        parse_step({"kind": "resample", "spacing_xyz": [1, -1, 1]})
    with pytest.raises(ConfigError, match="empty"):
        parse_step({"kind": "rescale", "low": 3, "high": 3})
    config = PreprocessConfig(steps=(step_to_dict(Orient()), step_to_dict(step)))
    assert Pipeline.of(config).to_config() == config


def test_geometry_is_replaced_whole():
    geometry = oblique(0)
    assert dataclasses.replace(geometry) == geometry
