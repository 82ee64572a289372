"""Tiled prediction against a plain whole-array implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctseg
from ctseg.engine.inference import tiling
from ctseg.engine.inference.predict_tiles import predict_tiles
from ctseg.errors import BadInput
from ctseg.specs import Constraints


class Toy(torch.nn.Module):
    """Depends on place within the tile and on neighbours, so that every mistake of placement shows."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv3d(channels, classes, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 1, x.shape[-1]) + torch.linspace(0, 2, x.shape[-3])[:, None, None]
        return self.conv(x) * (1 + ramp)


def whole(net, image, tile, overlap, blend):
    """Every tile added to an array of the scan's size, then divided by the sum of the weights."""
    pads = [
        ((max(t - n, 0)) // 2, max(t - n, 0) - max(t - n, 0) // 2)
        for n, t in zip(image.shape[1:], tile, strict=True)
    ]
    padded = image
    for axis, pair in enumerate(pads, start=1):
        widths = [(0, 0)] * 4
        widths[axis] = pair
        mode = "reflect" if pair[1] < padded.shape[axis] else "edge"
        padded = np.pad(padded, widths, mode=mode)
    weight = np.ones(tile, np.float64)
    if blend == "gaussian":
        for axis, n in enumerate(tile):
            position = np.arange(n) - (n - 1) / 2
            one = np.exp(-0.5 * (position / (n / 8)) ** 2)
            one = np.maximum(one / one.max(), 1e-3)
            weight = weight * one.reshape([-1 if a == axis else 1 for a in range(3)])
    total, count = 0.0, np.zeros(padded.shape[1:])
    grids = [tiling.starts(n, t, overlap) for n, t in zip(padded.shape[1:], tile, strict=True)]
    for starts in itertools.product(*grids):
        box = tuple(slice(s, s + t) for s, t in zip(starts, tile, strict=True))
        with torch.inference_mode():
            logits = net(torch.from_numpy(padded[(slice(None), *box)])[None])[0].numpy()
        if isinstance(total, float):
            total = np.zeros((len(logits), *padded.shape[1:]))
        total[(slice(None), *box)] += logits * weight
        count[box] += weight
    mean = total / count
    crop = tuple(slice(b, b + n) for (b, _), n in zip(pads, image.shape[1:], strict=True))
    return mean[(slice(None), *crop)]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 19)] * 3),
    tile=st.tuples(*[st.integers(3, 10)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    blend=st.sampled_from(["gaussian", "constant"]),
    channels=st.integers(1, 2),
    batch_size=st.integers(1, 3),
)
def test_equals_the_plain_implementation(shape, tile, overlap, blend, channels, batch_size):
    net = Toy(channels, 3)
    image = np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)
    expected = whole(net, image, tile, overlap, blend)
    got = predict_tiles(
        net, image, tile, overlap, blend, device="cpu", precision="fp32", batch_size=batch_size
    )
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_placement_as_published():
    """nnU-Net's own example: 110 voxels, tile 64, half overlap."""
    assert tiling.starts(110, 64, 0.5) == [0, 23, 46]
    assert tiling.starts(64, 64, 0.5) == [0]
    assert tiling.starts(10, 64, 0.5) == [0]


@given(size=st.integers(1, 300), tile=st.integers(1, 128), overlap=st.floats(0, 0.9))
def test_tiles_cover_everything_and_overlap_enough(size, tile, overlap):
    starts = tiling.starts(size, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(size - tile, 0)
    steps = np.diff(starts)
    assert (steps <= np.ceil(max(tile * (1 - overlap), 1))).all()
    assert (tiling.total_weight(size, tile, overlap, "gaussian") > 0).all()


def test_outputs():
    net, image = Toy(1, 3), np.random.default_rng(0).normal(size=(1, 9, 9, 9)).astype(np.float32)
    options = {"device": "cpu", "precision": "fp32"}
    logits = predict_tiles(net, image, (6, 6, 6), **options)
    shares = predict_tiles(
        net, image, (6, 6, 6), output="probabilities", activation="softmax", **options
    )
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    labels = predict_tiles(net, image, (6, 6, 6), output="labels", **options)
    np.testing.assert_array_equal(labels, logits.argmax(0))
    either = predict_tiles(net, image, (6, 6, 6), output="labels", activation="sigmoid", **options)
    np.testing.assert_array_equal(either, logits > 0)


def test_mirrored_views_are_averaged():
    net, image = Toy(1, 2), np.random.default_rng(0).normal(size=(1, 6, 6, 6)).astype(np.float32)
    options = {"device": "cpu", "precision": "fp32"}
    got = predict_tiles(net, image, (6, 6, 6), mirror_axes=(0, 2), **options)
    expected = np.zeros_like(got)
    for axes in ((), (1,), (3,), (1, 3)):
        view = np.flip(image, axes).copy() if axes else image
        out = predict_tiles(net, view, (6, 6, 6), **options)
        expected += (np.flip(out, axes) if axes else out) / 4
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_bf16_stays_near_fp32():
    net = ctseg.create_model("unet3d", in_channels=1, out_channels=2, features=(4, 8))
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    one = predict_tiles(net, image, (8, 8, 8), device="cpu", precision="fp32")
    two = predict_tiles(net, image, (8, 8, 8), device="cpu", precision="bf16")
    assert np.abs(one - two).max() < 0.1 * max(np.abs(one).max(), 1)


def test_the_network_keeps_its_mode():
    net = Toy(1, 2).train()
    predict_tiles(net, np.zeros((1, 4, 4, 4)), (4, 4, 4), device="cpu")
    assert net.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_czyx": np.zeros((4, 4, 4))}, "image\\[None\\]"),
        ({"output": "probabilities"}, "activation"),
        ({"output": "mask"}, "no output"),
        ({"overlap": 1.0}, "overlap"),
        ({"tile_zyx": (0, 4, 4)}, "positive"),
        ({"tile_zyx": (4, 4)}, "three positive sizes"),
        ({"tile_zyx": (4, 4, 4, 4)}, "three positive sizes"),
        ({"blend": "median"}, "'median' is no blend"),
        ({"output": "probabilities", "activation": "relu"}, "'relu' is no activation"),
        ({"batch_size": 0}, "batch of 0"),
        ({"mirror_axes": (1, 3)}, "mirrored along"),
        ({"device": "tpu"}, "device"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_bad_input(arguments, message):
    given = {"image_czyx": np.zeros((1, 4, 4, 4)), "tile_zyx": (4, 4, 4)} | arguments
    with pytest.raises(BadInput, match=message):
        predict_tiles(Toy(1, 2), **given)


def test_fit_tile():
    assert Constraints((8, 8, 4)).fit((30, 33, 8)) == (32, 40, 8)
    assert Constraints(min_tile_zyx=(8, 8, 8)).fit((3, 3, 3)) == (8, 8, 8)
    assert Constraints(fixed_tile_zyx=(96, 96, 96)).fit((3, 3, 3)) == (96, 96, 96)
