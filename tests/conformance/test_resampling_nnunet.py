"""Resampling to the network's grid and back as nnU-Net does it: clipped splines, coarse axis apart, nearest scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import Clip, Crop, NormaliseCase, Resample, RescaleCase
from ctseg.data.stream import InMemory, open_stream
from ctseg.engine.inference.label_channels import resized
from ctseg.engine.inference.predictor import combine
from ctseg.engine.inference.resample_logits import interpolate
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.inference.tiling import pad, window
from ctseg.errors import ConfigError
from ctseg.specs import Label, Task
from ctseg.volume.geometry import Geometry

pytest.importorskip("nnunetv2")
resampling = pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")

GRIDS = [
    ((11, 30, 28), (0.8, 0.8, 4.0), (1.0, 1.0, 1.0)),
    ((11, 30, 28), (0.8, 0.8, 4.0), (1.1, 1.1, 4.0)),
    ((24, 22, 9), (3.9, 0.8, 0.9), (1.0, 1.0, 1.1)),
    ((20, 30, 28), (0.7, 0.7, 1.25), (1.1, 0.9, 1.0)),
    ((29, 30, 28), (0.9, 0.9, 3.1), (1.0, 1.0, 5.0)),
]
"""Shape z, y, x; spacing and target spacing x, y, z."""


def cut_scan(shape: tuple[int, int, int]) -> np.ndarray:
    """Noise that was clipped, as a normalised CT is: splines overshoot at its plateaus."""
    noise = np.random.default_rng(0).normal(0, 1.5, (2, *shape))
    return np.clip(noise, -1, 1).astype(np.float32)


def step(target: tuple[float, float, float], **options: object) -> Resample:
    return Resample(spacing_xyz=target, kernel="spline", clip=True, back_coarse_order=0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "spacing", "target"), GRIDS)
@pytest.mark.parametrize(("coarse", "force"), [("auto", None), ("never", False), ("always", True)])
@pytest.mark.parametrize("coarse_order", [0, 1, 3])
def test_scans_are_resampled_as_by_nnunet(shape, spacing, target, coarse, force, coarse_order):
    image, geometry = cut_scan(shape), Geometry(shape, spacing_xyz=spacing)
    own = step(target, coarse=coarse, coarse_order=coarse_order)
    new_shape = resampling.compute_new_shape(shape, spacing[::-1], target[::-1])
    assert own.grid(geometry, {}).shape_zyx == tuple(new_shape)
    expected = resampling.resample_data_or_seg_to_shape(
        image, new_shape, spacing[::-1], target[::-1], order=3, order_z=coarse_order,
        force_separate_z=force,
    )  # fmt: skip
    found = own.image(image, geometry, own.fit(image, geometry))
    assert np.abs(found - expected).max() < 1e-5
    unclipped = Resample(
        spacing_xyz=target, kernel="spline", coarse=coarse, coarse_order=coarse_order
    )
    assert np.abs(unclipped.image(image, geometry, {}) - expected).max() > 1e-3


@pytest.mark.parametrize(("shape", "spacing", "target"), GRIDS)
def test_a_streamed_scan_is_the_whole_one_bit_for_bit(shape, spacing, target, monkeypatch):
    image, geometry = cut_scan(shape), Geometry(shape, spacing_xyz=spacing)
    own = step(target)
    whole = own.image(image, geometry, own.fit(image, geometry))
    monkeypatch.setattr("ctseg.data.stream.PART_BYTES", 2**14)
    stream = open_stream(Pipeline([own]), InMemory(image, geometry))
    depth = whole.shape[1]
    assert len(list(stream.blocks(0, depth))) > 1
    # a spline filter that begins elsewhere rounds elsewhere
    assert np.abs(stream.read(0, depth) - whole).max() < 1e-6
    assert stream.applied.steps[0].record == own.fit(image, geometry)


@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize(("shape", "spacing", "target"), GRIDS)
def test_scores_come_back_as_in_nnunet(shape, spacing, target, margin):
    """Resampled to the shape that the crop left, and inserted into the scan."""
    geometry = Geometry(shape, spacing_xyz=spacing)
    box = [[margin, size - margin // 2] for size in shape]
    inside = (slice(None), *(slice(*span) for span in box))
    pipeline = Pipeline([Crop(nonzero=True), step(target)])
    applied = pipeline.applied_of(geometry, [{"box_zyx": box}, {}])
    logits = (
        np.random.default_rng(1).normal(0, 3, (3, *applied.target.shape_zyx)).astype(np.float32)
    )
    expected = np.zeros((3, *shape), np.float32)
    expected[inside] = resampling.resample_data_or_seg_to_shape(
        logits, [b - a for a, b in box], target[::-1], spacing[::-1], order=1, order_z=0,
        force_separate_z=None,
    )  # fmt: skip
    back = SourceGridMapper(applied)
    assert back.box == tuple(map(tuple, box))
    found = np.zeros((3, *shape), np.float32)
    for piece in back.feed(0, torch.from_numpy(logits)):
        values = interpolate(piece.low_czyx, piece.positions)
        part = found[inside][:, piece.start : piece.start + values.shape[1]]
        part[:] = back.to_source_axes(piece, values)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("shape", "spacing", "target"),
    [*GRIDS, ((20, 28, 24), (1.0, 1.0, 1.0), (0.8, 0.8, 0.8)), ((9, 8, 10), (2, 2, 2), (1, 1, 1))],
)
def test_labels_of_the_stage_before_are_resampled_as_by_nnunet(shape, spacing, target):
    """Twice and 1.25 times as many voxels leave many halfway between two labels."""
    labels = (
        ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, shape), 1.5) * 9
    ).astype(int)
    labels = np.clip(labels, 0, 3).astype(np.uint8)
    geometry, own = Geometry(shape, spacing_xyz=spacing), step(target)
    new_shape = own.grid(geometry, {}).shape_zyx
    expected = resampling.resample_data_or_seg_to_shape(
        labels[None], new_shape, spacing[::-1], target[::-1], is_seg=True, order=1, order_z=0,
        force_separate_z=None,
    )  # fmt: skip
    found = resized(labels, new_shape, own.coarse_axis(geometry))
    assert len(np.unique(expected)) > 2
    assert np.array_equal(found, expected[0])
    assert found.dtype == labels.dtype


def test_half_way_slices_go_where_nnunets_go():
    """4 slices from 98: (i + 0.5) * (4 / 98) - 0.5 is half-way but for its rounding."""
    logits = np.arange(4, dtype=np.float32)[None, :, None, None] * np.ones((1, 4, 5, 5), np.float32)
    target, spacing = (1.0, 1.0, 24.5), (1.0, 1.0, 1.0)
    expected = resampling.resample_data_or_seg_to_shape(
        logits, (98, 5, 5), target[::-1], spacing, order=1, order_z=0, force_separate_z=None
    )
    own = step(target)
    at = own.back_positions(Geometry((98, 5, 5), spacing_xyz=spacing))[0]
    assert np.array_equal(np.clip(at, 0, 3), expected[0, :, 0, 0])


@pytest.mark.parametrize("tile", [8, 13, 64])
def test_the_window_is_nnunets(tile):
    theirs = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    expected = theirs.compute_gaussian.__wrapped__(
        (tile,), dtype=torch.float64, device=torch.device("cpu")
    )
    assert np.abs(window(tile, "nnunet") - expected.numpy()).max() < 1e-6
    if tile % 2 == 0:  # the centres of an odd number of voxels are one
        assert np.abs(window(tile, "gaussian") - expected.numpy()).max() > 1e-4


def test_padding_is_nnunets():
    padding = pytest.importorskip("acvl_utils.cropping_and_padding.padding")
    image = np.random.default_rng(0).normal(size=(2, 5, 30, 8)).astype(np.float32)
    expected = padding.pad_nd_image(image, (10, 24, 9), "constant", {"constant_values": 0})
    assert np.array_equal(pad(image, (10, 24, 9), mode="zeros"), expected)
    assert not np.array_equal(pad(image, (10, 24, 9)), expected)


def test_logits_are_averaged_where_a_model_says_so():
    task = Task("classes", tuple(Label(str(i), (i,), i) for i in range(2)))
    one, two = torch.tensor([9.0, 0.0]), torch.tensor([-4.0, 0.0])
    outs = [v[:, None, None, None] for v in (one, two)]
    assert float(combine(task, outs, average="logits")[0]) == 2.5
    mean = (one.softmax(0) + two.softmax(0)) / 2
    assert torch.allclose(combine(task, outs).flatten().exp(), mean)


def test_steps_leave_other_channels_alone():
    image = np.random.default_rng(0).normal(50, 30, (3, 4, 5, 6)).astype(np.float32)
    image[:, :2] = 0
    grid = Geometry((4, 5, 6))
    clip = Clip((0.0,), (60.0,), channels=(1,))
    found = clip.image(image, grid, {})
    assert np.array_equal(found[[0, 2]], image[[0, 2]])
    assert np.array_equal(found[1], np.clip(image[1], 0, 60))
    for own in (NormaliseCase(nonzero=True, channels=(0, 2)), RescaleCase(channels=(0, 2))):
        record = own.fit(image, grid)
        parts = [(z, image[:, z : z + 1]) for z in range(4)]
        streamed = own.fit_parts(lambda parts=parts: iter(parts), grid)
        assert streamed is not None
        for key, values in record.items():
            assert np.allclose(streamed[key], values)
        alone = type(own)(**{**vars(own), "channels": ()})
        found = own.image(image, grid, record)
        assert np.array_equal(found[1], image[1])
        assert np.array_equal(found[[0, 2]], alone.image(image[[0, 2]], grid, record))
    with pytest.raises(ConfigError, match="the scan has 3"):
        Clip(channels=(3,)).image(image, grid, {})
