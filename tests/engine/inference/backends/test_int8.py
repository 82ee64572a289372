"""8-bit integers: the rounding against one that is written out here, the ranges, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import ctseg
from ctseg.card import Card, parse_card
from ctseg.card_int8 import Int8
from ctseg.engine.inference.backends import choice, int8
from ctseg.engine.inference.backends.choice import Work, computation_of, identify, use_ranges
from ctseg.engine.model.runtime import choose, has_openvino
from ctseg.errors import BadInput, ConfigError, CorruptWeights, RunFailed
from tests.engine.small_model import card_of

needs_openvino = pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
TILE = (8, 8, 8, 8)


class Net(nn.Module):
    """A convolution and a transposed one of eight channels, and logits."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(8, 8, 3, padding=1)
        self.act = nn.LeakyReLU(slope)
        self.up = nn.ConvTranspose3d(8, 16, 2, 2)
        self.head = nn.Conv3d(16, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(self.act(self.conv(x)))[..., ::2, ::2, ::2])


def tile(seed: int = 1) -> torch.Tensor:
    return torch.randn((1, *TILE), generator=torch.Generator().manual_seed(seed))


def rounded(values: torch.Tensor, low: float, high: float, steps: int) -> torch.Tensor:
    """Values at the nearest of so many steps from low to high."""
    step = (high - low) / steps
    return torch.round((values.clamp(low, high) - low) / step) * step + low


def in_integers(layer: nn.Module, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """What a convolution gives whose input and weights are rounded; negative inputs count if they matter."""
    if -low < 0.02 * high:
        x = rounded(x, 0, high, 255)
    else:  # codes from -128 to 127
        step = high / 127 if high / 127 > -low / 128 else -low / 128
        x = torch.round(x / step).clamp(-128, 127) * step
    axis = 1 if isinstance(layer, nn.ConvTranspose3d) else 0
    weight = layer.weight.detach().clone()
    for part in weight.unbind(axis):
        largest = 127 / 64 * float(part.abs().max())  # 64 steps up to the largest
        part.copy_(rounded(part, -largest, largest, 254))
    if axis:
        return nn.functional.conv_transpose3d(x, weight, layer.bias, layer.stride)
    return nn.functional.conv3d(x, weight, layer.bias, padding=layer.padding)


@needs_openvino
@pytest.mark.parametrize("slope", [0.01, 0.5], ids=["nothing negative", "signed"])
def test_openvino_computes_rounded_convolutions(slope, monkeypatch, tmp_path):
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path))
    net, x = Net(slope).eval(), tile()
    ranges = int8.ranges_on(net, x)
    use_ranges(net, ranges)
    compute = computation_of(net, choose("cpu", "int8", "auto"), Work(TILE, 1))
    assert choice.used([net])[0].startswith("openvino ")
    found = compute(x)
    with torch.inference_mode():
        plain = net(x)
        hidden = net.act(in_integers(net.conv, x, *ranges["conv"]))
        up = in_integers(net.up, hidden, *ranges["up"])[..., ::2, ::2, ::2]
        expected = net.head(up)
    scale = float(plain.abs().max())
    off = float((plain - expected).abs().max()) / scale
    assert 1e-3 < off < 0.05  # else the network shows nothing
    differing = (found - expected).abs() / scale
    # values between two steps may fall to either side, for sums of fp32 depend on their order
    assert float(differing.mean()) < off / 50 and float(differing.max()) < off
    assert float((found - plain).abs().max()) / scale == pytest.approx(off, rel=0.3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 2.0, (0.0, 2.0)),
        (-0.02, 2.0, (0.0, 2.0)),
        (0.5, 2.0, (0.0, 2.0)),
        (-1.0, 127.0, (0.0, 127.0)),
        (-5.0, 127.0, (-128.0, 127.0)),
        (-256.0, 127.0, (-256.0, 254.0)),
        (-128.0, -3.0, (-128.0, 127.0)),
    ],
)
def test_steps_hold_zero_and_the_range(low, high, expected):
    assert int8.steps(low, high) == pytest.approx(expected)


class Branched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 8, 1)
        self.depthwise = nn.Conv3d(8, 8, 1, groups=8)
        self.idle = nn.Conv3d(8, 8, 1)
        self.twice = nn.Conv3d(8, 8, 1)
        self.dead = nn.Conv3d(8, 8, 1)
        self.head = nn.Conv3d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.twice(self.depthwise(self.first(x)))
        y = self.twice(10 * y)
        return self.head(y + self.dead(0 * y))


def test_ranges_are_those_of_all_tiles_and_of_convolutions_that_gain():
    net, ranges, seen = Branched().eval(), dict[str, tuple[float, float]](), []
    handle = net.twice.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    for seed in (1, 2):
        with torch.inference_mode(), int8.recording(net, ranges):
            net(tile(seed)[:, :1])
    handle.remove()
    values = torch.cat(seen)
    assert ranges == {"twice": (float(values.min()), float(values.max()))}
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_slice_network_has_ranges_too():
    net = ctseg.create_model("unet2d", in_channels=1, out_channels=2, features=(8, 8)).eval()
    ranges = int8.ranges_on(net, torch.randn(1, 1, 1, 16, 16))
    assert ranges and all(low < high for low, high in ranges.values())


# ---------------------------------------------------------------- what is refused


def card_with(ranges: dict[str, tuple[float, float]]) -> Card:
    return card_of(card_version=2, int8=Int8(inputs={"w.safetensors": ranges}))


@pytest.mark.parametrize("bad", ["[2.0, 1.0]", "[1.0, 1.0]", "[NaN, 1.0]", "[0.0]", '["a", 1.0]'])
def test_damaged_ranges_are_refused(bad):
    text = card_with({"conv": (0.0, 1.25)}).to_json()
    assert parse_card(text, where="here").int8 is not None
    compact = json.dumps(json.loads(text)).replace("[0.0, 1.25]", bad)
    assert bad in compact
    with pytest.raises((ConfigError, CorruptWeights)):
        parse_card(compact, where="here")


def test_a_card_of_version_1_cannot_hold_them():
    with pytest.raises(ValueError, match="card_version 2"):
        card_of(int8=Int8())
    assert "int8" not in json.loads(card_of().to_json())


def test_ranges_of_another_network_are_refused():
    net = Net()
    known = card_with({"conv": (0.0, 1.0)})
    assert int8.ranges_of(known, "w.safetensors", net) == {"conv": (0.0, 1.0)}
    with pytest.raises(CorruptWeights, match="'act', which is no convolution"):
        int8.ranges_of(card_with({"act": (0.0, 1.0)}), "w.safetensors", net)
    with pytest.raises(BadInput, match="without their ranges") as found:
        int8.ranges_of(card_of(), "w.safetensors", net)
    assert "--int8" in (found.value.hint or "")
    with pytest.raises(BadInput, match="without their ranges"):
        int8.ranges_of(known, "other.safetensors", net)
    with pytest.raises(BadInput, match="lost too much Dice"):
        int8.ranges_of(card_of(card_version=2, int8=Int8(mean_dice=0.1)), "w.safetensors", net)


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_int8_needs_openvino(monkeypatch, backend):
    monkeypatch.setattr("ctseg.engine.model.runtime.has_openvino", lambda: False)
    words = "not by PyTorch on cpu" if backend == "torch" else "openvino is not installed"
    with pytest.raises(BadInput, match=words):
        choose("cpu", "int8", backend)


@pytest.fixture
def played(monkeypatch, tmp_path):
    """An OpenVINO that computes the network itself, with an error where one is set."""
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ctseg.engine.model.runtime.has_openvino", lambda: True)
    state = {"error": 0.0, "conversions": 0}

    def convert(network, _):
        state["conversions"] += 1
        return network

    class Program:
        def __init__(self, network, *_):
            self.network = network

        def run(self):
            return lambda x: self.network(x) + state["error"]

    def save(_, file):
        file.write_bytes(b"x")
        file.with_suffix(".bin").write_bytes(b"x")

    for name, call in (
        ("convert", convert), ("Program", Program), ("save", save), ("load", lambda *_: Net().eval()),
        ("version", lambda: "1"), ("about", dict),
    ):  # fmt: skip
        monkeypatch.setattr(choice.openvino, name, call)
    monkeypatch.setattr(choice.int8, "round_convolutions", lambda *_: None)
    return state


def ready(ranges: dict[str, tuple[float, float]]) -> tuple[Net, object]:
    net = Net().eval()
    identify(net, json.dumps({"architecture": "net"}))
    use_ranges(net, ranges)
    return net, choose("cpu", "int8", "auto")


@pytest.mark.parametrize("error", [100.0, float("nan")])
def test_nothing_else_is_computed_where_int8_is_wrong(played, error):
    net, runtime = ready({"conv": (0.0, 1.0)})
    played["error"] = error
    for _ in range(2):
        with pytest.raises(RunFailed, match="int8 cannot be computed: OpenVINO's logits differ"):
            computation_of(net, runtime, Work(TILE, 1000))


def test_int8_without_ranges_is_refused(played):
    with pytest.raises(BadInput, match="published with --int8"):
        ctseg.predict_tiles(Net(), np.zeros((8, 8, 8, 8)), (8, 8, 8), device="cpu",
                            precision="int8", backend="auto")  # fmt: skip


def test_other_ranges_are_another_program(played):
    for ranges, conversions in (
        ({"conv": (0.0, 1.0)}, 1),
        ({"conv": (0.0, 1.0)}, 1),
        ({"conv": (0.0, 2.0)}, 2),
    ):
        net, runtime = ready(ranges)
        computation_of(net, runtime, Work(TILE, 1))
        assert played["conversions"] == conversions


def test_pytorch_computes_fp32_beside_int8(played):
    """The memory estimate and the comparison run the network by PyTorch with the runtime of int8."""
    net, runtime = ready({"conv": (0.0, 1.0)})
    with torch.inference_mode(), runtime.autocast():
        found = net(runtime.tensor(tile()))
    with torch.inference_mode():
        torch.testing.assert_close(found, net(tile()), rtol=0, atol=0)


@needs_openvino
def test_ranges_that_meet_no_convolution_are_an_error():
    net, other = Net().eval(), Net().eval()
    with torch.no_grad():
        other.conv.weight += 1
    model = choice.openvino.convert(net, tile())
    with pytest.raises(ValueError, match="no convolution has the weights"):
        int8.round_convolutions(model, other, {"conv": (0.0, 1.0)})
