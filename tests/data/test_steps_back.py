"""What goes through the steps comes back: every step, on grids of all kinds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ctseg import plugins
from ctseg.config import PreprocessConfig
from ctseg.data.pipeline import Pipeline, follow_label, follow_values, tracks_of
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
    keeps_grid,
    parse_step,
    step_to_dict,
)
from ctseg.data.steps.interpolate import labels_at
from ctseg.errors import ConfigError
from ctseg.volume.geometry import Geometry

TURNS = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((-1, 1), repeat=3)
]


@st.composite
def grids(draw: st.DrawFn) -> Geometry:
    """Any shape, spacing and direction: flipped, permuted, oblique."""
    permutation, signs = draw(st.sampled_from(TURNS))
    matrix = np.eye(3)[list(permutation)] * np.asarray(signs)
    angles = draw(st.tuples(*[st.floats(-40, 40)] * 3))
    if draw(st.booleans()):
        matrix = Rotation.from_euler("zyx", angles, degrees=True).as_matrix() @ matrix
    shape = draw(st.tuples(*[st.integers(1, 14)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 5.0)] * 3))
    return Geometry(shape, spacing, (3.0, -40.0, 12.5), matrix)


def blocks(geometry: Geometry, seed: int) -> np.ndarray:
    """A label map of some boxes, [1, Z, Y, X]."""
    rng = np.random.default_rng(seed)
    label = np.zeros((1, *geometry.shape_zyx), np.uint8)
    for value in (1, 2, 7):
        low = [int(rng.integers(n)) for n in geometry.shape_zyx]
        part = tuple(slice(a, a + int(rng.integers(1, 6))) for a in low)
        label[(0, *part)] = value
    return label


shapes = st.tuples(*[st.integers(0, 16)] * 3)
exact_steps = st.one_of(
    st.builds(Orient, st.sampled_from(["LPS", "RAS", "SAL", "IPR"])),
    st.builds(Transpose, st.sampled_from(list(itertools.permutations(range(3))))),
    st.builds(
        CropOrPad, shapes, st.just((5.0,)), st.just(False), st.sampled_from(["front", "back"])
    ),
    st.builds(PadToMultiple, st.tuples(*[st.integers(1, 8)] * 3)),
    st.builds(Crop, st.just(0.5), st.floats(0, 4), st.booleans()),
    st.builds(CropToBody, st.just(-1.0), st.floats(0, 4)),
    st.just(Clip()),
    st.just(Normalise()),
    st.just(NormaliseCase()),
    st.just(RescaleCase()),
    st.just(Rescale()),
)


@settings(max_examples=100, deadline=None)
@given(grid=grids(), steps=st.lists(exact_steps, max_size=4), seed=st.integers(0, 999))
def test_labels_come_back_exactly_from_steps_that_only_move_voxels(take_back, grid, steps, seed):
    """All that a crop kept comes back as it was, and where nothing was kept there is background."""
    label = blocks(grid, seed)
    scan = label.astype(np.float32) * 3
    _, applied = Pipeline(steps).image(scan, grid)
    moved = follow_label(applied, label)
    assert moved.shape[1:] == applied.target.shape_zyx
    kept = take_back(applied, follow_label(applied, np.ones_like(label)), np.zeros(1)) == 1
    if not any(isinstance(step, Crop | CropToBody) for step in steps):
        assert kept.all()
    expected = np.where(kept, label, 0)
    np.testing.assert_array_equal(take_back(applied, moved, np.zeros(1)), expected)
    logits = np.stack([moved[0] == v for v in (0, 1, 2, 7)]).astype(np.float32)
    shares = take_back(applied, logits, np.array([1.0, 0, 0, 0], np.float32))
    np.testing.assert_array_equal(shares.argmax(0), np.searchsorted([0, 1, 2, 7], expected[0]))


@settings(max_examples=60, deadline=None)
@given(grid=grids(), steps=st.lists(exact_steps, max_size=4))
def test_the_grid_says_where_each_voxel_went(grid, steps):
    """A map of positions in mm, moved by the steps, holds the positions that the grid after them states."""
    z, y, x = np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij")
    places = np.moveaxis(grid.position(np.stack([x, y, z], -1)), -1, 0).astype(np.float32)
    steps = [
        step for step in steps if isinstance(step, Orient | Transpose | CropOrPad | PadToMultiple)
    ]
    _, applied = Pipeline(steps).image(np.zeros((1, *grid.shape_zyx), np.float32), grid)
    inside = follow_label(applied, np.ones((1, *grid.shape_zyx), np.uint8))[0] > 0
    moved = follow_values(applied, places)
    z, y, x = np.meshgrid(*map(np.arange, applied.target.shape_zyx), indexing="ij")
    stated = np.moveaxis(applied.target.position(np.stack([x, y, z], -1)), -1, 0)
    np.testing.assert_allclose(moved[:, inside], stated[:, inside], atol=1e-3)
    np.testing.assert_allclose(np.linalg.det(applied.target.matrix) ** 2, 1, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(grid=grids(), step=exact_steps)
def test_steps_that_change_nothing_are_exact(undo, grid, step):
    """Where a step says that it leaves the grid alone, labels stay as they are, and so does where they lie."""
    label = blocks(grid, 1)
    if keeps_grid(step, grid):
        record = step.fit(label.astype(np.float32), grid)
        np.testing.assert_array_equal(step.label(label, grid, record), label)
        np.testing.assert_array_equal(undo(step, label, grid, record, np.zeros(1)), label)
        assert step.grid(grid, record).agrees(grid)


@pytest.mark.parametrize(
    "step",
    [
        Orient(), Transpose(), CropOrPad(), CropOrPad((9, 10, 11)), PadToMultiple((1, 1, 1)),
        Resample((0.0, 0.0, 0.0)), Resample((0.7, 0.8, 2.5)), Downscale((1, 1, 1)),
        Resample((0.7, 0.8, 2.5), kernel="spline"), Resample((0.7, 0.8, 2.5), align="first"),
    ],
)  # fmt: skip
def test_identity_is_exact(undo, step):
    grid = Geometry((9, 10, 11), (0.7, 0.8, 2.5), (1.0, 2.0, 3.0))
    scan = np.random.default_rng(0).normal(size=(2, 9, 10, 11)).astype(np.float32)
    label = blocks(grid, 0)
    assert keeps_grid(step, grid)
    np.testing.assert_array_equal(step.image(scan, grid, {}), scan)
    np.testing.assert_array_equal(step.weight(scan, grid, {}), scan)
    np.testing.assert_array_equal(step.label(label, grid, {}), label)
    np.testing.assert_array_equal(undo(step, scan, grid, {}, np.zeros(2)), scan)
    np.testing.assert_array_equal(undo(step, label, grid, {}, np.zeros(1)), label)


# ---------------------------------------------------------------- resampling: back up to its error

resamplings = st.one_of(
    st.builds(
        Resample, st.tuples(*[st.floats(0.3, 4.0)] * 3), st.sampled_from([0, 1, 3]),
        st.sampled_from([0, 1]), st.sampled_from(["keys", "spline"]), st.sampled_from(["extent", "first"]),
    ),
    st.builds(Downscale, st.tuples(*[st.integers(1, 3)] * 3)),
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(grid=grids(), step=resamplings, seed=st.integers(0, 999))
def test_labels_come_back_from_resampling_away_from_their_borders(undo, grid, step, seed):
    """The documented error: a voxel keeps its label where all voxels within a new voxel or two have the same."""
    label = blocks(grid, seed)
    after = step.grid(grid, {})
    moved = step.label(label, grid, {})
    assert moved.shape[1:] == after.shape_zyx
    assert set(np.unique(moved)) <= set(np.unique(label))
    returned = undo(step, moved, grid, {}, np.zeros(1))
    assert returned.shape == label.shape
    reach = [
        1 + 2 * int(np.ceil(2 * max(new / old, 1)))
        for old, new in zip(grid.spacing_zyx, after.spacing_zyx, strict=True)
    ]
    reach = [max(r, 2 * n + 1) if m == 1 else r
             for r, n, m in zip(reach, grid.shape_zyx, after.shape_zyx, strict=True)]  # fmt: skip
    low = ndimage.minimum_filter(label[0], reach, mode="nearest")
    high = ndimage.maximum_filter(label[0], reach, mode="nearest")
    sure = low == high
    np.testing.assert_array_equal(returned[0][sure], label[0][sure])


@pytest.mark.parametrize("box", [[[5, 40], [0, 20], [0, 20]], [[0, 31], [3, 20], [2, 17]]])
@pytest.mark.parametrize(
    "step",
    [
        Resample((0.8, 0.8, 5.0), kernel="spline", back_coarse_order=0),
        Resample((1.1, 0.9, 7.0), back_coarse_order=0, coarse="always"),
        Resample((1.1, 0.9, 3.0), align="first"), Downscale((2, 3, 1)), Downscale((99, 1, 2)),
    ],
)  # fmt: skip
def test_what_a_crop_kept_comes_back_as_without_the_crop(take_back, box, step):
    """As nnU-Net: scores are resampled to the grid of the crop, then inserted into the scan."""
    grid = Geometry((40, 20, 20), (0.8, 0.8, 2.0))
    cropped = Pipeline([Crop()]).applied_of(grid, [{"box_zyx": box}]).target
    alone = Pipeline([step]).applied_of(cropped, [{}])
    after = Pipeline([Crop(), step]).applied_of(grid, [{"box_zyx": box}, {}])
    scores = np.random.default_rng(0).normal(size=(2, *after.target.shape_zyx)).astype(np.float32)
    expected = np.full((2, *grid.shape_zyx), 7, np.float32)
    part = tuple(slice(*span) for span in box)
    expected[(slice(None), *part)] = take_back(alone, scores, np.zeros(2))
    np.testing.assert_array_equal(take_back(after, scores, np.full(2, 7.0)), expected)
    assert len(np.unique(tracks_of(after)[2].at[part[2]])) > 3


def test_positions_ascend_through_two_resamplings():
    """The centres of every third voxel are centres of the step before, and those between them are not."""
    steps = [Downscale((3, 1, 1)), Resample((1.0, 1.0, 9.0), back_coarse_order=0)]
    applied = Pipeline(steps).applied_of(Geometry((60, 8, 8)), [{}, {}])
    at = tracks_of(applied)[0].at
    assert (np.diff(at) >= 0).all()
    assert (at.min(), at.max()) == pytest.approx((0, 6), abs=0.5)


@settings(max_examples=60, deadline=None)
@given(grid=grids(), step=resamplings)
def test_constants_and_shares_survive_resampling(undo, grid, step):
    """A constant stays one, probabilities stay probabilities, weights do not become negative."""
    scan = np.full((1, *grid.shape_zyx), 3.5, np.float32)
    after = step.image(scan, grid, {})
    np.testing.assert_allclose(after, 3.5, rtol=1e-5)
    rng = np.random.default_rng(0)
    shares = rng.dirichlet((1, 1, 1), after.shape[1:]).astype(np.float32)
    returned = undo(step, np.moveaxis(shares, -1, 0), grid, {}, np.zeros(3))
    np.testing.assert_allclose(returned.sum(0), 1, atol=1e-5)
    assert returned.min() >= -1e-6
    weights = rng.random((1, *grid.shape_zyx)).astype(np.float32)
    assert step.weight(weights, grid, {}).min() >= 0


@settings(max_examples=40, deadline=None)
@given(grid=grids(), step=resamplings)
def test_a_resampled_ramp_lies_where_the_grid_says(grid, step):
    """Linear functions of the position are kept by every kernel, away from the borders."""
    if isinstance(step, Resample) and (step.order == 0 or step.coarse_order == 0):
        return
    z, y, x = np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij")
    towards = np.array([0.3, -0.2, 0.5])
    ramp = (grid.position(np.stack([x, y, z], -1)) @ towards).astype(np.float32)[None]
    after = step.grid(grid, {})
    got = step.image(ramp, grid, {})[0]
    z, y, x = np.meshgrid(*map(np.arange, after.shape_zyx), indexing="ij")
    places = after.position(np.stack([x, y, z], -1))
    index = (places - np.asarray(grid.origin_xyz)) @ grid.matrix / np.asarray(grid.spacing_xyz)
    far = 6 if isinstance(step, Resample) and step.order == 3 and step.kernel == "spline" else 2
    shape_xyz = np.asarray(grid.shape_zyx[::-1])
    inner = ((index >= far) & (index <= shape_xyz - 1 - far)).all(-1)
    np.testing.assert_allclose(got[inner], (places @ towards)[inner], atol=2e-2)


def test_many_labels_are_resampled_as_one_by_one():
    """Working within each label's box changes nothing."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 40, (1, 9, 10, 11)).astype(np.int16)
    positions = [
        np.linspace(-0.4, n - 0.6, m) for n, m in zip((9, 10, 11), (13, 7, 20), strict=True)
    ]
    got = labels_at(label, positions, (1, 1, 1))
    best, expected = np.full(got.shape[1:], -1.0), np.zeros(got.shape[1:], int)
    at = np.meshgrid(
        *[np.clip(p, 0, n - 1) for p, n in zip(positions, (9, 10, 11), strict=True)], indexing="ij"
    )
    for value in range(40):
        share = ndimage.map_coordinates((label[0] == value).astype(np.float64), at, order=1)
        better = share > best + 1e-6
        expected[better], best = value, np.maximum(best, share)
    same = got[0] == expected
    assert same.mean() > 0.999  # equal shares may round either way


def test_negative_and_large_values_are_resampled_too():
    label = np.array([-3, -3, 70_000, 70_000], np.int32).reshape(1, 1, 1, 4)
    got = labels_at(label, [np.zeros(1), np.zeros(1), np.array([0.2, 1.2, 1.8, 3.4])], (1, 1, 1))
    np.testing.assert_array_equal(got.ravel(), [-3, -3, 70_000, 70_000])


# ---------------------------------------------------------------- single steps


def test_crop_to_body_leaves_the_table(undo):
    """The box of voxels above the threshold holds the table; the largest connected part does not."""
    scan = np.full((1, 12, 40, 40), -1000, np.float32)
    _, y, x = np.meshgrid(*map(np.arange, (12, 40, 40)), indexing="ij")
    body = (y - 18) ** 2 + (x - 20) ** 2 < 100
    scan[0, body] = 30
    scan[0, (y - 18) ** 2 + (x - 16) ** 2 < 9] = -800  # a lung
    scan[0, :, 34:36, 4:36] = 100  # the table
    grid = Geometry((12, 40, 40), (1.0, 1.0, 3.0))
    assert Crop(-500).fit(scan, grid)["box_zyx"] == [[0, 12], [9, 36], [4, 36]]
    step = CropToBody()
    assert step.fit(scan, grid)["box_zyx"] == [[0, 12], [9, 28], [11, 30]]
    blank = CropToBody(margin_mm=8, outside=-1024)
    record = blank.fit(scan, grid)
    assert record["box_zyx"] == [[0, 12], [1, 36], [3, 38]]
    out = blank.image(scan, grid, record)
    assert set(np.unique(out)) == {-1024, -800, 30}  # the lung stays, the table goes
    label = body[None].astype(np.uint8)
    moved = blank.label(label, grid, record)
    np.testing.assert_array_equal(undo(blank, moved, grid, record, np.zeros(1)), label)
    nothing = np.full((1, 3, 4, 5), -1000, np.float32)
    assert step.fit(nothing, Geometry((3, 4, 5)))["box_zyx"] == [[0, 3], [0, 4], [0, 5]]


def test_opening_parts_the_body_from_a_table_that_it_touches():
    scan = np.full((1, 8, 30, 30), -1000, np.float32)
    scan[0, :, 5:20, 8:22] = 0
    scan[0, :, 20:21, 2:28] = 0  # a thin table right under it
    grid = Geometry((8, 30, 30))
    assert CropToBody().fit(scan, grid)["box_zyx"][2] == [2, 28]
    assert CropToBody(opening_zyx=(1, 3, 3)).fit(scan, grid)["box_zyx"] == [
        [0, 8],
        [5, 21],
        [8, 22],
    ]


def test_downscaling_is_the_mean_of_blocks():
    scan = np.random.default_rng(0).normal(size=(1, 4, 6, 7)).astype(np.float32)
    grid = Geometry((4, 6, 7), (0.5, 0.7, 3.0), (1.0, 2.0, 3.0))
    step = Downscale((1, 2, 2))
    out = step.image(scan, grid, {})
    assert out.shape == (1, 4, 3, 4)
    np.testing.assert_allclose(out[0, :, 1, 2], scan[0, :, 2:4, 4:6].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(out[0, :, 0, 3], scan[0, :, :2, 6].mean(1), rtol=1e-5)
    after = step.grid(grid, {})
    assert after.spacing_xyz == (1.0, 1.4, 3.0)
    np.testing.assert_allclose(after.position((0, 0, 0)), grid.position((0.5, 0.5, 0)))
    votes = np.array([[1, 1], [1, 0]], np.uint8).reshape(1, 1, 2, 2)
    assert step.label(votes, Geometry((1, 2, 2)), {}).ravel() == [1]
    tie = np.array([[1, 1], [0, 0]], np.uint8).reshape(1, 1, 2, 2)
    assert step.label(tie, Geometry((1, 2, 2)), {}).ravel() == [0]


def test_crop_or_pad_shows_where_the_scan_ends():
    scan = np.ones((2, 3, 4, 5), np.float32)
    step = CropOrPad((5, 2, 5), value=(-7.0, -9.0))
    out = step.image(scan, Geometry((3, 4, 5)), {})
    assert out.shape == (2, 5, 2, 5)
    assert (out[:, 1:4] == 1).all()
    assert (out[0, [0, 4]] == -7).all()
    assert (out[1, [0, 4]] == -9).all()
    assert CropOrPad((5, 2, 5), crop=False).shape_after((3, 4, 5)) == (5, 4, 5)


def test_an_axis_is_coarse_before_or_after():
    """nnU-Net's rule: the one coarsest axis, over 3 x the finest, of the scan or else of the target."""
    fine, step = Geometry((9, 9, 9), (1.0, 1.0, 1.0)), Resample((1.0, 1.0, 4.0))
    assert step.orders(fine, 3) == (0, 3, 3)
    assert Resample((1.0, 1.0, 1.0)).orders(Geometry((9, 9, 9), (1.0, 4.0, 4.0)), 3) == (3, 3, 3)
    assert Resample((1.0, 1.0, 1.0), coarse_order=1).orders(
        Geometry((9, 9, 9), (5.0, 1.0, 1.0)), 3
    ) == (3, 3, 1)


def test_rescale_case():
    scan = np.arange(101, dtype=np.float32).reshape(1, 1, 1, 101)
    grid = Geometry((1, 1, 101))
    step = RescaleCase((10, 90), -1, 1)
    out = step.image(scan, grid, step.fit(scan, grid)).ravel()
    assert (out[:11] == -1).all()
    assert (out[90:] == 1).all()
    np.testing.assert_allclose(out[50], 0, atol=1e-6)
    free = RescaleCase((10, 90), 0, 1, clip=False)
    np.testing.assert_allclose(free.image(scan, grid, free.fit(scan, grid)).ravel()[100], 1.125)
    inner = RescaleCase((0, 100), 0, 1, nonzero=True)
    assert inner.fit(scan, grid) == {"low": [1.0], "high": [100.0]}
    assert inner.image(scan, grid, inner.fit(scan, grid)).ravel()[0] == 0
    flat = np.full((1, 2, 2, 2), 5, np.float32)
    assert (step.image(flat, Geometry((2, 2, 2)), step.fit(flat, Geometry((2, 2, 2)))) == -1).all()


def test_joint_statistics_serve_all_channels():
    scan = np.random.default_rng(0).normal([[[[3]]], [[[9]]]], 2, (2, 4, 5, 6)).astype(np.float32)
    grid = Geometry((4, 5, 6))
    step = NormaliseCase(joint=True)
    out = step.image(scan, grid, step.fit(scan, grid))
    np.testing.assert_allclose(out, (scan - scan.mean()) / scan.std(), atol=1e-5)
    both = RescaleCase(joint=True).fit(scan, grid)
    np.testing.assert_allclose([both["low"][0], both["high"][0]], [scan.min(), scan.max()])
    masked = NormaliseCase(nonzero=True, joint=True)
    scan[0, :2] = 0
    inside = scan[scan != 0]
    np.testing.assert_allclose(masked.fit(scan, grid)["mean"], inside.mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", plugins.names("step"))
def test_every_step_is_read_and_written_as_plain_data(kind):
    step = parse_step({"kind": kind})
    plain = PreprocessConfig(steps=(step_to_dict(step),))
    assert Pipeline.of(plain).steps == (step,)
    assert type(step).__doc__


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "orient", "to": "LLS"}, {"kind": "orient", "to": "lps"}, {"kind": "orient", "to": "LP"},
        {"kind": "transpose", "order_zyx": [0, 0, 1]}, {"kind": "crop", "margin_mm": -1},
        {"kind": "crop_to_body", "opening_zyx": [2, 1, 1]}, {"kind": "crop_to_body", "margin_mm": -1},
        {"kind": "crop_or_pad", "shape_zyx": [1, -2, 3]}, {"kind": "pad_to_multiple", "of_zyx": [0, 1, 1]},
        {"kind": "downscale", "factor_zyx": [0, 1, 1]}, {"kind": "rescale_case", "percentiles": [9, 1]},
        {"kind": "normalise_case", "percentiles": [0, 101]}, {"kind": "normalise_case", "filled": True},
        {"kind": "resample", "order": 2}, {"kind": "resample", "kernel": "sinc"},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ConfigError):
        parse_step(wrong)


@pytest.mark.real_data
def test_the_table_goes_and_labels_come_back_on_real_scans(take_back, real_data):
    """A soft-tissue sarcoma CT whose table lies below the patient; tumours survive halving in the plane."""
    from ctseg.data.load import load_image, load_label
    from ctseg.data.readers.find import open_dataset
    from ctseg.planning.task import task_of

    dataset = open_dataset(real_data / "sts_ct", None)
    task = task_of(None, dataset)
    case = next(case for case in dataset.cases if case.id == "sts_002")
    scan = load_image(case)
    label = load_label(case, task, scan)
    body = CropToBody(margin_mm=5, opening_zyx=(1, 5, 5))
    steps = [Orient(), body, Downscale((1, 2, 2)), Clip((-160.0,), (240.0,)), Rescale(-160, 240)]
    image, applied = Pipeline(steps).image(scan.czyx, scan.geometry)
    assert -1 <= image.min() < image.max() <= 1
    above = Crop(-500).fit(scan.czyx, scan.geometry)["box_zyx"]
    kept = applied.steps[1].record["box_zyx"]
    assert above[1] == [0, 143]
    assert kept[1][1] < 120  # the table's slices are gone
    moved = follow_label(applied, label.czyx)
    returned = take_back(applied, moved, np.zeros(1))
    one, two = returned == 1, label.czyx == 1
    assert 2 * (one & two).sum() / (one.sum() + two.sum()) > 0.95


@pytest.mark.parametrize("dtype", ["u1", "u2", ">i2", "u4", "u8"])
def test_labels_of_any_type_are_resampled(undo, dtype):
    """As ITK-SNAP writes them (uint16), and from big-endian files."""
    label = np.zeros((1, 6, 8, 9), dtype)
    label[0, 2:4, 2:6, 3:7] = 200
    geometry = Geometry((6, 8, 9), (1.0, 1.0, 2.0))
    for step in (Resample((1.3, 1.3, 1.3)), Downscale()):
        there = step.label(label, geometry, {})
        again = undo(step, there, geometry, {}, np.zeros(1))
        assert set(np.unique(there)) == set(np.unique(again)) == {0, 200}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_a_value_that_bytes_cannot_hold_is_kept(dtype):
    """-1 would wrap round to 255 in a micro-CT scan of bytes."""
    scan, grid = np.ones((1, 4, 4, 4), dtype), Geometry((4, 4, 4))
    for step in (CropOrPad((6, 6, 6), value=(-1.0,)), PadToMultiple((8, 8, 8), value=(-1.0,))):
        out = step.image(scan, grid, {})
        assert (out.min(), out.max()) == (-1, 1)
    scan[0, 0] = 0
    body = CropToBody(above=0, margin_mm=1, outside=-1000.0)
    out = body.image(scan, grid, body.fit(scan, grid))
    assert (out.min(), out.max()) == (-1000, 1)
    same = CropOrPad((4, 4, 4), value=(-1.0,)).image(scan, grid, {})
    assert same.dtype == dtype
