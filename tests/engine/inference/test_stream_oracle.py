"""The streaming engine against a plain implementation on whole arrays.

The plain one preprocesses the whole scan, adds every tile to an array of the scan's size, and goes back by physical
positions: each voxel of the scan asks SciPy for the logits at the place where its centre lies.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ctseg.data import stream as streams
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import (
    Clip,
    Crop,
    CropOrPad,
    Downscale,
    Normalise,
    Orient,
    Resample,
    RescaleCase,
)
from ctseg.data.stream import InMemory, open_stream
from ctseg.engine.inference import predictor, tiling
from ctseg.engine.inference.decoders import Confidence, LabelMap, Logits, Masks, Probabilities
from ctseg.engine.inference.label_channels import WithLabels
from ctseg.engine.inference.predictor import Predictor
from ctseg.engine.inference.sinks import ToArray
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.inference.tiling_settings import TilingSettings
from ctseg.engine.model.runtime import choose
from ctseg.specs import Label, Task
from ctseg.task import classes_task
from ctseg.volume.geometry import Geometry

CPU = choose("cpu", "fp32")
DIRECTIONS = {
    "straight": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "flipped": ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
    "permuted": ((0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "oblique": ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0)),
}
WAYS = {
    "as it is": [],
    "values": [Clip((-30.0,), (30.0,)), Normalise((1.0,), (9.0,))],
    "orient": [Orient("RAS"), Normalise()],
    "resample": [Orient(), Resample((1.3, 0.8, 1.7)), Normalise((0.0,), (20.0,))],
    "finer": [Resample((0.7, 0.8, 0.9), order=1)],
    "spline": [Resample((1.3, 0.8, 1.7), kernel="spline")],
    "first": [Resample((1.3, 0.8, 1.7), align="first", order=1)],
    "crop, resample": [Orient(), Crop(above=0.0), Resample((1.1, 1.1, 1.1)), RescaleCase()],
    "resample, pad": [Resample((1.4, 1.4, 1.4)), CropOrPad((9, 14, 12), (-2.0,), crop=False)],
    "downscale": [Downscale((2, 1, 3))],
}


class Toy(torch.nn.Module):
    """Depends on place within the tile and on neighbours, so that every mistake of placement shows."""

    def __init__(self, channels: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = torch.nn.Conv3d(channels, classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 1, x.shape[-1]) + torch.linspace(0, 2, x.shape[-3])[:, None, None]
        return self.conv(x) * (1 + ramp)


def tiled(net, image, tile, overlap, blend, views=((),)):
    pads = tiling.padding(image.shape[1:], tile)
    padded = image
    for axis, pair in enumerate(pads, start=1):
        widths = [(0, 0)] * 4
        widths[axis] = pair
        mode = "reflect" if pair[1] < padded.shape[axis] else "edge"
        padded = np.pad(padded, widths, mode=mode)
    weight = np.ones(tile, np.float64)
    if blend == "gaussian":
        for axis, n in enumerate(tile):
            one = np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2)
            weight = weight * np.maximum(one / one.max(), 1e-3).reshape(
                [-1 if a == axis else 1 for a in range(3)]
            )
    total, count = None, np.zeros(padded.shape[1:])
    for starts in itertools.product(
        *(tiling.starts(n, t, overlap) for n, t in zip(padded.shape[1:], tile, strict=True))
    ):
        box = tuple(slice(s, s + t) for s, t in zip(starts, tile, strict=True))
        x = torch.from_numpy(padded[(slice(None), *box)])[None]
        with torch.inference_mode():
            outs = [net(x.flip([2 + a for a in v])).flip([2 + a for a in v]) for v in views]
        logits = torch.stack(outs).mean(0)[0].numpy()
        total = np.zeros((len(logits), *padded.shape[1:])) if total is None else total
        total[(slice(None), *box)] += logits * weight
        count[box] += weight
    crop = tuple(slice(b, b + n) for (b, _), n in zip(pads, image.shape[1:], strict=True))
    return (total / count)[(slice(None), *crop)]


def at_the_scans_voxels(logits, applied, fill):
    """Every voxel centre of the scan as a point in space, and as an index of the network's grid."""
    source, target = applied.source, applied.target
    index = np.indices(source.shape_zyx).reshape(3, -1)[::-1]  # x, y, z
    points = source.matrix @ (index * np.array(source.spacing_xyz)[:, None])
    points = points + np.array(source.origin_xyz)[:, None] - np.array(target.origin_xyz)[:, None]
    found = (np.linalg.inv(target.matrix) @ points / np.array(target.spacing_xyz)[:, None])[::-1]
    values = [ndimage.map_coordinates(c, found, order=1, mode="nearest") for c in logits]
    size = np.array(target.shape_zyx)[:, None]
    outside = ((found < -0.5 - 1e-6) | (found >= size - 0.5 - 1e-6)).any(0)
    out = np.stack(values)
    crops = any(isinstance(p.step, Crop) for p in applied.steps)
    if crops:
        out[:, outside] = fill[:, None]
    return out.reshape(-1, *source.shape_zyx)


def scan_of(shape, direction, channels=1, seed=0):
    geometry = Geometry(shape, (0.9, 1.1, 1.6), (4.0, -7.0, 11.0), DIRECTIONS[direction])
    array = np.random.default_rng(seed).normal(3, 20, (channels, *shape)).astype(np.float32)
    array[:, :, :, :2] = -1
    return InMemory(array, geometry), array, geometry


def run(engine, stream, *products, **more):
    back = SourceGridMapper(stream.applied)
    arrays = [
        np.zeros((*(() if p.channels is None else (p.channels,)), *back.source), p.dtype)
        for p in products
    ]
    sinks = [ToArray(a, back.box, p.fill) for a, p in zip(arrays, products, strict=True)]
    engine.run(stream, list(zip(products, sinks, strict=True)), mapper=back, **more)
    return arrays


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(streams, "PART_BYTES", 3000)
    monkeypatch.setattr(predictor, "PIECE_BYTES", 20000)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(*[st.integers(1, 21)] * 3),
    tile=st.tuples(*[st.integers(3, 9)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    blend=st.sampled_from(["gaussian", "constant"]),
    direction=st.sampled_from(sorted(DIRECTIONS)),
    way=st.sampled_from(sorted(WAYS)),
    classes=st.integers(2, 5),
    batch=st.integers(1, 3),
    mirror=st.sampled_from([(), (0,), (1, 2)]),
)
def test_equals_the_plain_implementation(
    shape, tile, overlap, blend, direction, way, classes, batch, mirror
):
    scan, array, geometry = scan_of(shape, direction)
    net = Toy(1, classes).eval()
    pipeline = Pipeline(WAYS[way])
    image, applied = pipeline.image(array, geometry)
    options = TilingSettings(tile, overlap, blend, mirror, batch)
    views = [v for n in range(len(mirror) + 1) for v in itertools.combinations(mirror, n)]
    task = classes_task({f"label_{i}": i for i in range(1, classes)})
    low = tiled(net, image, tile, overlap, blend, views)
    expected = at_the_scans_voxels(low, applied, Logits(task).fill)
    logits, labels = run(
        Predictor([net], task, options, CPU),
        open_stream(pipeline, scan),
        Logits(task),
        LabelMap(task),
    )
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * scale, rtol=0)
    order = np.sort(expected, 0)
    clear = order[-1] - order[-2] > 2e-5 * scale
    assert (labels[clear] == expected.argmax(0)[clear]).all()


def test_an_ensemble_averages_probabilities():
    scan, array, geometry = scan_of((14, 15, 13), "straight")
    nets = [Toy(1, 3, seed).eval() for seed in range(3)]
    task = classes_task({"a": 1, "b": 2})
    pipeline = Pipeline(WAYS["as it is"])
    image, _ = pipeline.image(array, geometry)
    lows = [tiled(net, image, (6, 7, 8), 0.5, "gaussian") for net in nets]
    shares = np.mean([np.exp(x) / np.exp(x).sum(0) for x in lows], 0)
    options = TilingSettings((6, 7, 8))
    found, labels, sure = run(
        Predictor(nets, task, options, CPU), open_stream(pipeline, scan),
        Probabilities(task), LabelMap(task), Confidence(task),
    )  # fmt: skip
    np.testing.assert_allclose(found, shares, atol=2e-6)
    np.testing.assert_allclose(sure, shares.max(0), atol=2e-6)
    order = np.sort(shares, 0)
    clear = order[-1] - order[-2] > 2e-5
    assert (labels[clear] == shares.argmax(0)[clear]).all()


def test_channels_that_overlap():
    scan, array, geometry = scan_of((9, 15, 13), "permuted")
    net = Toy(1, 3).eval()
    labels = tuple(Label(n, (i,), i) for i, n in enumerate(["whole", "core", "active"], start=1))
    task = Task("channels", labels)
    pipeline = Pipeline(WAYS["resample"])
    image, applied = pipeline.image(array, geometry)
    low = tiled(net, image, (6, 7, 8), 0.5, "gaussian")
    logits = at_the_scans_voxels(low, applied, np.full(3, -30.0))
    engine = Predictor([net], task, TilingSettings((6, 7, 8)), CPU)
    stream = open_stream(pipeline, scan)
    masks, made, shares = run(engine, stream, Masks(task), LabelMap(task), Probabilities(task))
    clear = (np.abs(logits) > 1e-4).all(0)
    assert clear.mean() > 0.9
    assert (masks[:, clear] == (logits > 0)[:, clear]).all()
    expected = np.zeros(made.shape, int)
    for i in range(3):
        expected[logits[i] > 0] = i + 1
    assert (made[clear] == expected[clear]).all()
    np.testing.assert_allclose(shares, 1 / (1 + np.exp(-logits)), atol=1e-5)
    only, cores = run(engine, stream, LabelMap(task, labels[:1]), Masks(task, labels[1:2]))
    assert (only[clear] == (logits[0] > 0)[clear]).all()  # what covers it is not asked for
    assert (cores[0][clear] == (logits[1] > 0)[clear]).all()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    depth=st.integers(1, 40),
    overlap=st.sampled_from([0.0, 0.5, 0.75]),
    way=st.sampled_from(["as it is", "resample", "crop, resample", "finer"]),
    direction=st.sampled_from(["straight", "flipped"]),
    parts=st.integers(2, 4),
)
def test_parts_made_apart_equal_the_whole_bit_for_bit(depth, overlap, way, direction, parts):
    scan, _, _ = scan_of((depth, 9, 10), direction)
    task = classes_task({"a": 1, "b": 2})
    engine = Predictor([Toy(1, 3).eval()], task, TilingSettings((6, 5, 8), overlap), CPU)
    stream = open_stream(Pipeline(WAYS[way]), scan)
    (whole,) = run(engine, stream, Logits(task))
    size = SourceGridMapper(stream.applied).slices
    cuts = np.linspace(0, size, min(parts, size) + 1).astype(int)
    out = np.zeros_like(whole)
    back = SourceGridMapper(stream.applied)
    sink = ToArray(out, back.box, Logits(task).fill)
    for a, b in itertools.pairwise(cuts):
        engine.run(stream, [(Logits(task), sink)], slice_range=(int(a), int(b)))
    np.testing.assert_array_equal(out, whole)


def test_air_is_skipped_and_nothing_else_changes():
    scan, array, _ = scan_of((24, 12, 12), "straight")
    array[:, :12] = -1000
    calls = []

    class Counting(Toy):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    net = Counting(1, 3).eval()
    task = classes_task({"a": 1, "b": 2})
    pipeline = Pipeline([Clip((-900.0,), (500.0,)), Normalise((0.0,), (100.0,))])
    (every,) = run(
        Predictor([net], task, TilingSettings((6, 6, 6)), CPU),
        open_stream(pipeline, scan),
        LabelMap(task),
    )
    all_of_them = sum(calls)
    calls.clear()
    options = TilingSettings((6, 6, 6), skip_air=-950)
    (most,) = run(Predictor([net], task, options, CPU), open_stream(pipeline, scan), LabelMap(task))
    assert sum(calls) < all_of_them
    assert not most[:10].any()
    np.testing.assert_array_equal(most[12:], every[12:])


def test_the_labels_of_several_models_are_channels_one_behind_the_other():
    scan, array, _ = scan_of((6, 5, 4), "straight")
    stream = open_stream(Pipeline([]), scan)
    one, two = np.zeros((2, *array.shape[1:]), np.uint8)
    one[1, 2, 3], two[3, 2, 1] = 2, 5
    both = WithLabels(stream, (one, (1, 2)), (two, (5,)))
    assert both.shape_czyx == (4, 6, 5, 4)
    found = both.box(((1, 6), (0, 5), (0, 4)))
    np.testing.assert_array_equal(found[:1], array[:, 1:])
    np.testing.assert_array_equal(found[1:], np.stack([one == 1, one == 2, two == 5])[:, 1:])


def test_where_labels_are_channels_air_without_a_label_is_skipped():
    scan, array, _ = scan_of((24, 12, 12), "straight")
    array[:, :12] = -1000
    pipeline = Pipeline([Clip((-900.0,), (500.0,)), Normalise((0.0,), (100.0,))])
    net, task = Toy(3, 3).eval(), classes_task({"a": 1, "b": 2})
    labels = np.zeros(array.shape[1:], np.uint8)
    labels[3, 3, 3] = 2
    stream = WithLabels(open_stream(pipeline, scan), (labels, (1, 2)))
    every, most = (
        run(
            Predictor([net], task, TilingSettings((6, 6, 6), skip_air=air), CPU),
            stream,
            Logits(task),
        )[0]
        for air in (None, -950.0)
    )
    np.testing.assert_array_equal(most[:, 12:], every[:, 12:])
    np.testing.assert_array_equal(most[:, :3, :3, :3], every[:, :3, :3, :3])  # beside the label
    assert len(np.unique(most[0, :3, 9:, 9:])) == 1  # far from it
    assert len(np.unique(every[0, :3, 9:, 9:])) > 1
