"""Scans preprocessed slab by slab against the same steps on whole arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctseg.data import stream as streams
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import (
    Clip,
    Crop,
    CropOrPad,
    CropToBody,
    Downscale,
    Normalise,
    NormaliseCase,
    Orient,
    PadToMultiple,
    Resample,
    Rescale,
    RescaleCase,
    Transpose,
    statistics,
)
from ctseg.data.steps.statistics import mean_and_deviation, percentiles_of
from ctseg.data.steps.track import straight
from ctseg.data.stream import InMemory, open_stream
from ctseg.errors import BadInput
from ctseg.volume.geometry import Geometry

STEPS = {
    "orient": Orient(),
    "orient RAS": Orient("RAS"),
    "orient permuted": Orient("SLP"),
    "transpose": Transpose((2, 0, 1)),
    "crop": Crop(above=20.0, margin_zyx=(1, 0, 2)),
    "crop to body": CropToBody(above=20.0),
    "only body": CropToBody(above=20.0, outside=-7.0),
    "crop or pad": CropOrPad((9, 30, 8), (-3.0,)),
    "pad to multiple": PadToMultiple((8, 8, 8), (2.0,)),
    "cubic": Resample((1.3, 0.7, 1.9)),
    "spline": Resample((1.3, 0.7, 1.9), kernel="spline"),
    "linear, first": Resample((1.3, 0.7, 1.9), order=1, align="first"),
    "nearest": Resample((1.3, 0.7, 1.9), order=0),
    "finer": Resample((0.6, 0.6, 0.5), order=3),
    "downscale": Downscale((2, 3, 1)),
    "clip": Clip((-10.0,), (40.0,)),
    "normalise": Normalise((3.0,), (11.0,)),
    "rescale": Rescale(-20, 30),
    "case": NormaliseCase(),
    "case percentiles": NormaliseCase(percentiles=(0.5, 99.5)),
    "case nonzero": NormaliseCase(nonzero=True, percentiles=(1.0, 98.0)),
    "case filled": NormaliseCase(nonzero=True, filled=True),
    "case joint": NormaliseCase(joint=True),
    "rescale case": RescaleCase(percentiles=(1.0, 99.0), joint=True),
    "rescale nonzero": RescaleCase(nonzero=True),
}
GEOMETRY = Geometry((17, 13, 11), (0.9, 1.1, 2.3), (5.0, -3.0, 9.0))
TURNED = Geometry(
    (17, 13, 11), (0.9, 1.1, 2.3), (5.0, -3.0, 9.0), ((0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(streams, "PART_BYTES", 4000)


def scan_of(geometry, channels=2, dtype=np.float32):
    rng = np.random.default_rng(3)
    array = rng.normal(0, 25, (channels, *geometry.shape_zyx))
    array[:, :3], array[..., -2:] = 0, 0
    return array.astype(dtype)


def check(steps, geometry, dtype=np.float32):
    scan = scan_of(geometry, dtype=dtype)
    expected, applied = Pipeline(steps).image(scan, geometry)
    stream = open_stream(Pipeline(steps), InMemory(scan, geometry))
    assert stream.shape_czyx == expected.shape
    assert stream.applied.target.agrees(applied.target)
    depth = expected.shape[1]
    cuts = sorted({0, 1, depth // 3, depth - 1, depth})
    for a, b in [(0, depth), *itertools.pairwise(cuts)]:
        if b > a:
            got = stream.read(a, b)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, expected[:, a:b], rtol=2e-5, atol=2e-5)
    return stream


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("geometry", [GEOMETRY, TURNED], ids=["straight", "turned"])
def test_each_step_slab_by_slab_equals_the_whole(name, geometry):
    check([STEPS[name]], geometry)


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=4), turned=st.booleans())
def test_steps_in_any_order_equal_the_whole(names, turned):
    check([STEPS[name] for name in names], TURNED if turned else GEOMETRY)


def test_a_slab_that_is_padding_altogether_is_no_slice_of_the_scan():
    """One slice is added in front, and slabs of one slice are made: its place is that of the scan's first slice."""
    check([STEPS["finer"], STEPS["pad to multiple"]], GEOMETRY)


def test_whole_numbers_stay_until_a_step_needs_more():
    check([Orient(), Crop(above=3.0), RescaleCase(percentiles=(2.0, 98.0))], GEOMETRY, np.int16)


@pytest.mark.parametrize(
    "name", [n for n, s in STEPS.items() if type(s) in (Orient, Transpose, Crop, CropOrPad, PadToMultiple)]
)  # fmt: skip
def test_tracks_say_where_voxels_went(take_back, name):
    """An array of indices on the grid after the step, undone, holds at each source voxel what its track says."""
    scan = scan_of(TURNED)
    _, applied = Pipeline([STEPS[name]]).image(scan, TURNED)
    applied_step = applied.steps[0]
    tracks = applied_step.step.track_axes(
        straight(TURNED.shape_zyx), applied_step.before, applied_step.record
    )
    for track, axis in zip(tracks, range(3), strict=True):
        index = np.indices(applied.target.shape_zyx)[track.axis][None].astype(np.float32)
        undone = take_back(applied, index, np.full(1, -9.0, np.float32))[0]
        inside = np.ix_(*(t.inside for t in tracks))
        shape = [1, 1, 1]
        shape[axis] = -1
        expected = np.broadcast_to(track.at.reshape(shape), undone.shape)
        np.testing.assert_array_equal(undone[inside], expected[inside])
        outside = np.ones(undone.shape, bool)
        outside[inside] = False
        assert (undone[outside] == -9).all()


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 3000),
    kind=st.sampled_from(["normal", "equal", "few", "wide"]),
    percentiles=st.sampled_from([(0.0, 100.0), (0.5, 99.5), (25.0, 50.0)]),
)
def test_percentiles_and_moments_of_parts_equal_numpy(size, kind, percentiles):
    rng = np.random.default_rng(size)
    values = {
        "normal": rng.normal(size=size),
        "equal": np.full(size, 4.5),
        "few": rng.integers(0, 3, size).astype(float),
        "wide": np.append(rng.normal(size=size), 1e9),
    }[kind].astype(np.float32)
    few, statistics.FEW = statistics.FEW, 16  # so that the search has to narrow down more than once
    try:
        low, high = percentiles_of(lambda: np.array_split(values, 3), percentiles)
    finally:
        statistics.FEW = few
    np.testing.assert_allclose(
        [low, high], np.percentile(values.astype(float), percentiles), rtol=1e-6
    )
    mean, std = mean_and_deviation(lambda: np.array_split(values, 3), low, high)
    clipped = np.clip(values, low, high).astype(np.float64)
    np.testing.assert_allclose([mean, std], [clipped.mean(), clipped.std()], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("few", [4, 100])
def test_percentiles_of_half_precision_equal_numpy(few, monkeypatch):
    """Between its values lie many edges of bins, which are rounded to them in half precision."""
    monkeypatch.setattr(statistics, "FEW", few)
    values = np.random.default_rng(0).normal(100, 30, 20_000).astype(np.float16)
    for percentiles in ((0.5, 99.5), (25.0, 50.0)):
        found = percentiles_of(lambda: np.array_split(values, 3), percentiles)
        np.testing.assert_allclose(found, np.percentile(values.astype(float), percentiles))


def test_a_value_just_under_the_edge_of_a_bin_is_found():
    low, high = np.float32(0.1), np.float32(1000.3)
    edges = np.linspace(float(low), float(high), statistics.BINS + 1)[1:-1]
    just_under = next(np.float32(edge) for edge in edges if float(np.float32(edge)) < edge)
    values = np.array([low, just_under, high])
    found = statistics._ranked(lambda: [values], 1, float(low), float(high))
    assert found == float(just_under)


def test_a_scan_with_nan_is_refused():
    scan = scan_of(GEOMETRY)
    scan[0, 5, 5, 5] = np.nan
    stream = open_stream(Pipeline([Clip()]), InMemory(scan, GEOMETRY))
    with pytest.raises(BadInput, match="NaN"):
        stream.read(0, 17)
