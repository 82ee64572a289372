"""Tiled prediction against a plain whole-array implementation."""

from __future__ import annotations

import io
import itertools
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctseg
from ctseg.engine.inference import tiling
from ctseg.engine.inference.predict_tiles import predict_tiles
from ctseg.engine.inference.tiling_settings import TileGrid, TilingSettings
from ctseg.engine.model import measure_runtime, runtime_trial
from ctseg.errors import BadInput, RunFailed
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
    shares = overlap if isinstance(overlap, tuple) else (overlap,) * 3
    sizes = zip(padded.shape[1:], tile, shares, strict=True)
    grids = [tiling.starts(n, t, share) for n, t, share in sizes]
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
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75, (0.0, 0.5, 0.25), (0.75, 0.1, 0.5)]),
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


def test_each_axis_has_an_overlap_of_its_own():
    grid = TileGrid((64, 64, 64), TilingSettings((16, 16, 16), (0.0, 0.5, 0.75)))
    assert [np.diff(starts).max() for starts in grid.starts] == [16, 8, 4]
    both = [
        TileGrid((40, 40, 40), TilingSettings((16, 16, 16), o)).starts for o in (0.25, (0.25,) * 3)
    ]
    assert both[0] == both[1]


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


def unet() -> torch.nn.Module:
    """Wide enough for the kernels of CPUs, with a part that is frozen."""
    torch.manual_seed(0)
    net = ctseg.create_model("unet3d", in_channels=1, out_channels=2, features=(32, 64)).train()
    net.encoder[0].eval()
    return net


def state(net: torch.nn.Module) -> list[object]:
    """What a caller sees of a network: classes, attributes, modes, and where and how the weights lie."""
    modules = [(type(m), m.training, *vars(m)) for m in net.modules()]
    weights = [(p.data_ptr(), p.stride(), p.device) for p in net.parameters()]
    return [*modules, *weights]


CUBE = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_network_comes_back_as_it_was(precision):
    net = unet()
    before = state(net)
    outs = [predict_tiles(net, CUBE, (16, 16, 16), device="cpu", precision=precision)]
    assert state(net) == before
    outs.append(predict_tiles(net, CUBE, (16, 16, 16), device="cpu", precision=precision))
    np.testing.assert_array_equal(*outs)
    file = io.BytesIO()
    torch.save(net, file)
    assert b"nets.cpu" not in file.getvalue()
    torch.nn.utils.parameters_to_vector(net.parameters())  # it takes weights as they are by default


def test_the_network_comes_back_after_an_error():
    net = unet()
    before = state(net)

    def stop(done: int, total: int) -> None:
        raise KeyError

    for options in (
        {"on_tiles": stop},
        {"image_czyx": CUBE.repeat(2, 0)},
    ):  # two channels are too many
        with pytest.raises((KeyError, RuntimeError)):
            predict_tiles(net, **({"image_czyx": CUBE, "tile_zyx": (16, 16, 16)} | options))
        assert state(net) == before


def test_threads_share_a_network():
    net = unet()
    before = state(net)
    expected = {
        precision: predict_tiles(net, CUBE, (16, 16, 16), device="cpu", precision=precision)
        for precision in ("bf16", "fp32")
    }
    found: list[tuple[str, np.ndarray]] = []

    def predict(precision: str) -> None:
        for _ in range(4):
            out = predict_tiles(net, CUBE, (16, 16, 16), device="cpu", precision=precision)
            found.append((precision, out))

    threads = [threading.Thread(target=predict, args=[p]) for p in ("bf16", "bf16", "fp32")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    for precision, out in found:
        if precision == "bf16":
            np.testing.assert_array_equal(out, expected[precision])
        else:  # weights may lie otherwise, for the others
            np.testing.assert_allclose(out, expected[precision], atol=1e-5)
    assert state(net) == before


@pytest.mark.parametrize("output", ["logits", "labels"])
@pytest.mark.parametrize(
    "kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int16, torch.uint8]
)
def test_tensors_are_taken_as_arrays_are(kind, output):
    image = (20 * torch.rand(1, 9, 9, 9)).to(kind).requires_grad_(kind.is_floating_point)
    options = {"output": output, "device": "cpu", "precision": "fp32"}
    got = predict_tiles(Toy(1, 3), image, (6, 6, 6), **options)
    assert isinstance(got, torch.Tensor)
    expected = predict_tiles(Toy(1, 3), image.detach().float().numpy(), (6, 6, 6), **options)
    np.testing.assert_array_equal(got.numpy(), expected)


class Giving(torch.nn.Module):
    """Gives what a function makes of the input."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x, x), r"returns a tuple, not a tensor of logits \(it has 2 elements"),
        (lambda x: [x], "returns a list, not"),
        (lambda x: {"out": x, "aux": x}, r"returns a dict, not .*keys are 'out', 'aux'"),
        (lambda x: None, "returns a NoneType"),
        (lambda x: x[0], r"shape \[1, 4, 4, 4\] for tiles of shape \[1, 1, 4, 4, 4\]"),
        (lambda x: x.mean((2, 3, 4)), r"shape \[1, 1\]"),
        (lambda x: x[..., ::2], r"shape \[1, 1, 4, 4, 2\]"),
        (lambda x: x[:, :0], r"shape \[1, 0, 4, 4, 4\]"),
        (lambda x: x.repeat(2, 1, 1, 1, 1), r"shape \[2, 1, 4, 4, 4\]"),
        (lambda x: x.long(), "returns int64 values"),
        (lambda x: x + 1j, "returns complex64 values"),
    ],
)
@pytest.mark.parametrize("output", ["logits", "labels"])
def test_what_is_no_logits_is_refused(function, message, output):
    with pytest.raises(BadInput, match=message) as error:
        predict_tiles(Giving(function), np.zeros((1, 4, 4, 4)), (4, 4, 4), output=output)
    assert error.value.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
def test_logits_that_are_no_numbers_are_refused(value, output):
    """A single one of two channels, in the last of eight tiles."""

    def spoil(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.where(x == 1, value, x)], 1)

    image = np.zeros((1, 8, 8, 8), np.float32)
    options = {"output": output, "activation": "softmax", "device": "cpu", "overlap": 0.0}
    predict_tiles(Giving(spoil), image, (4, 4, 4), **options)
    image[0, 7, 7, 7] = 1
    for precision in ("bf16", "fp32"):
        with pytest.raises(RunFailed, match="NaN or infinite") as error:
            predict_tiles(Giving(spoil), image, (4, 4, 4), precision=precision, **options)
        assert ("--precision fp32" in str(error.value.hint)) == (precision == "bf16")
        assert "weights" in str(error.value.hint)


def test_large_logits_are_no_fault():
    image = np.full((1, 8, 8, 8), 3e38, np.float32)  # their sum is infinite in float32
    out = predict_tiles(Giving(lambda x: x), image, (8, 8, 8), device="cpu", precision="fp32")
    np.testing.assert_allclose(out, image, rtol=1e-6)


def test_damaged_weights_are_named():
    net = Toy(1, 2)
    with torch.no_grad():
        net.conv.weight[1, 0, 1, 1, 1] = float("nan")
    with pytest.raises(RunFailed, match=r"weights 'conv\.weight'") as error:
        predict_tiles(net, np.zeros((1, 4, 4, 4)), (4, 4, 4), output="labels")
    assert "damaged" in str(error.value.hint)


@pytest.mark.parametrize(
    "options", [{"output": "labels"}, {"output": "probabilities", "activation": "softmax"}]
)
def test_one_logit_has_no_largest(options):
    with pytest.raises(BadInput, match="one logit") as error:
        predict_tiles(Toy(1, 1), np.zeros((1, 4, 4, 4)), (4, 4, 4), **options)
    assert "sigmoid" in str(error.value.hint)
    predict_tiles(
        Toy(1, 1), np.zeros((1, 4, 4, 4)), (4, 4, 4), **options | {"activation": "sigmoid"}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_czyx": np.zeros((4, 4, 4))}, "image\\[None\\]"),
        ({"image_czyx": torch.zeros(4, 4, 4)}, "image\\[None\\]"),
        ({"image_czyx": torch.zeros(1, 1, 4, 4, 4)}, "image\\[0\\]"),
        ({"image_czyx": np.zeros((4, 4))}, "not 2 axes"),
        ({"image_czyx": [[[[0.0]]]]}, "not a list"),
        ({"image_czyx": np.zeros((1, 4, 0, 4))}, "empty"),
        ({"image_czyx": torch.zeros(1, 4, 4, 4, dtype=torch.complex64)}, "real numbers"),
        ({"image_czyx": np.full((1, 4, 4, 4), "a")}, "real numbers"),
        ({"image_czyx": torch.full((1, 4, 4, 4), float("nan"))}, "scan holds NaN"),
        ({"output": "probabilities"}, "activation"),
        ({"output": "mask"}, "no output"),
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": (0.5, 0.5, 1.0)}, "overlap"),
        ({"overlap": (0.5, 0.5)}, "overlap"),
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


def test_the_precision_is_measured_where_there_are_many_tiles(monkeypatch, tmp_path):
    """On a processor that multiplies bf16 but is faster in fp32."""
    seen = []

    class Net(torch.nn.Conv3d):
        def forward(self, x):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path))
    monkeypatch.setattr("ctseg.engine.model.runtime.cpu_bf16", lambda: True)
    monkeypatch.setattr(measure_runtime, "SMALL", 0)
    monkeypatch.setattr(
        runtime_trial.Trial, "seconds", lambda self, _: 1.0 + (self.runtime.precision == "bf16")
    )
    net, image = Net(1, 2, 3, padding=1), np.random.default_rng(0).normal(size=(1, 20, 20, 20))
    for size, half in ((8, True), (20, False)):  # 1 and 64 tiles
        predict_tiles(net, image[:, :size, :size, :size], (8, 8, 8), batch_size=2)
        assert seen[-1] is half
    predict_tiles(net, image, (8, 8, 8), precision="bf16")
    assert seen[-1]
