"""The fastest runtime that agrees with PyTorch's float32 is chosen once, kept, and taken up by a resumed run."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from ctseg.engine.model import measure_runtime, runtime_trial
from ctseg.engine.model.measure_runtime import (
    as_choice,
    candidates,
    choose_for_tiles,
    choose_measured,
    name_of,
    probe_of,
    recorded,
)
from ctseg.engine.model.runtime import Runtime
from ctseg.specs import Constraints

CPU = torch.device("cpu")
BF16 = Runtime(CPU, "bf16", True, "test")
FP32 = Runtime(CPU, "fp32", False, "test")
EXACT = dataclasses.replace(FP32, exact=True)
SHAPE = (1, 1, 4, 4, 4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path))
    monkeypatch.setattr(measure_runtime, "SMALL", 0)
    return tmp_path / "runtime"


@pytest.fixture
def took(monkeypatch):
    """Seconds by candidate, instead of a clock."""
    table: dict[str, float] = {}
    monkeypatch.setattr(
        runtime_trial.Trial, "seconds", lambda self, _best: table.get(name_of(self.runtime), 9.0)
    )
    return table


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(4, 2, 1))


class Layouts(nn.Module):
    """Another result where the input lies channels-last."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.conv, self.wrong = nn.Conv3d(2, 2, 1), wrong

    def extra_repr(self):
        return str(self.wrong)

    def forward(self, x):
        return self.conv(x) + (0 if x.is_contiguous() else self.wrong)


def never(*_arguments, **_named):
    raise AssertionError("measured again")


def test_what_is_tried():
    names = {
        case: [name_of(c) for c in candidates(default, precision)]
        for case, default, precision in (
            ("bf16", BF16, "auto"), ("fp32", FP32, "auto"), ("exact", EXACT, "fp32"),
            ("asked", BF16, "bf16"), ("mps", Runtime(torch.device("mps"), "fp32", False, ""), "auto"),
        )
    }  # fmt: skip
    exact = "fp32, contiguous, PyTorch's kernels"
    assert names == {
        "bf16": ["bf16, channels-last", "fp32, channels-last", exact],
        "fp32": ["fp32, contiguous", "fp32, channels-last", exact],
        "exact": [exact, "fp32, channels-last, PyTorch's kernels"],
        "asked": ["bf16, channels-last", "bf16, contiguous"],
        "mps": ["fp32, contiguous"],
    }


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"fp32, contiguous": 1.0, "fp32, channels-last": 0.96}, "fp32, contiguous"),
        ({"fp32, contiguous": 1.0, "fp32, channels-last": 0.94}, "fp32, channels-last"),
        ({"fp32, contiguous": 1.0, "fp32, contiguous, PyTorch's kernels": 0.5},
         "fp32, contiguous, PyTorch's kernels"),
    ],
)  # fmt: skip
def test_the_fastest_is_taken_unless_the_default_is_about_as_fast(took, seconds, chosen):
    took |= seconds
    found = choose_measured(FP32, net(), SHAPE, training=True)
    assert name_of(found.runtime) == chosen
    assert (
        found.seconds
        == {"fp32, channels-last": 9.0, "fp32, contiguous, PyTorch's kernels": 9.0} | seconds
    )
    assert found.runtime.reason.startswith(f"measured: {seconds[chosen]:.3g} s")


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
def test_a_candidate_with_other_results_is_left_out(took, wrong):
    took["fp32, channels-last"] = 0.1
    found = choose_measured(FP32, Layouts(wrong), (1, 2, 4, 4, 4), training=False)
    assert found.runtime.channels_last is False
    assert found.differing["fp32, channels-last"].startswith("results are off by")
    assert not choose_measured(FP32, Layouts(1e-6), (1, 2, 4, 4, 4), training=False).differing


def test_wrong_gradients_are_seen(took, monkeypatch):
    """As those of bfloat16 were for thin volumes, with the right result."""

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.wrong = torch.is_autocast_enabled("cpu")
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return -grad if ctx.wrong else grad

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 3, padding=1)

        def forward(self, x):
            return Backward.apply(self.conv(x))

    found = choose_measured(BF16, Net(), SHAPE, training=True)
    assert list(found.differing) == ["bf16, channels-last"]
    assert found.runtime.precision == "fp32"


def test_a_candidate_that_fails_is_left_out(took):
    class Refuses(Layouts):
        def forward(self, x):
            if not x.is_contiguous():
                raise RuntimeError("no such layout")
            return self.conv(x)

    found = choose_measured(FP32, Refuses(0), (1, 2, 4, 4, 4), training=True)
    assert found.differing == {"fp32, channels-last": "no such layout"}


def test_network_and_random_numbers_stay_as_they_were(took):
    network = nn.Sequential(net(), nn.BatchNorm3d(2), nn.Dropout(0.5))
    before, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    found = choose_measured(BF16, network, SHAPE, training=True)
    assert not found.differing  # what is dropped depends on the layout, so nothing is
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in network.parameters())
    assert next(network.parameters()).is_contiguous()


def test_the_choice_is_kept_for_the_same_machine_network_and_patch(took, own_cache, monkeypatch):
    took["fp32, channels-last"] = 0.1
    first = choose_measured(FP32, net(), SHAPE, training=True)
    monkeypatch.setattr(runtime_trial.Trial, "__call__", never)
    assert choose_measured(FP32, net(), SHAPE, training=True) == first
    (file,) = own_cache.iterdir()
    with pytest.raises(AssertionError, match="again"):
        choose_measured(FP32, net(), (1, 1, 4, 4, 8), training=True)
    with pytest.raises(AssertionError, match="again"):
        choose_measured(FP32, net(), SHAPE, training=False)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        with pytest.raises(AssertionError, match="again"):
            choose_measured(FP32, net(), SHAPE, training=True)
    for damage in ("", "[]", '{"chosen": "fp64"}', file.read_text()[:-30]):
        file.write_text(damage)
        with pytest.raises(AssertionError, match="again"):
            choose_measured(FP32, net(), SHAPE, training=True)


def test_a_cache_that_cannot_be_written_changes_nothing(took, own_cache):
    own_cache.write_text("a file where the folder should be")
    took["fp32, channels-last"] = 0.1
    assert choose_measured(FP32, net(), SHAPE, training=True).runtime.channels_last


def test_small_networks_and_processes_that_work_together_keep_the_default(monkeypatch):
    monkeypatch.setattr(runtime_trial.Trial, "__call__", never)
    with monkeypatch.context() as patch:
        patch.setattr(measure_runtime, "SMALL", 1e5)
        assert choose_measured(FP32, net(), SHAPE, training=True).runtime == FP32
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        assert choose_measured(FP32, net(), SHAPE, training=True).runtime == FP32


def test_a_run_records_its_choice(took):
    took["fp32, channels-last"] = 0.1
    found = choose_measured(FP32, net(), SHAPE, training=True)
    choice = json.loads(json.dumps(as_choice(found)))
    again = recorded(choice, FP32)
    assert again is not None
    assert dataclasses.replace(again, reason="") == dataclasses.replace(found.runtime, reason="")
    elsewhere = choice | {"machine": choice["machine"] | {"processor": "another"}}
    for unusable in (elsewhere, None, {}, choice | {"precision": "fp64"}):
        assert recorded(unusable, FP32) is None


def test_large_patches_are_reduced_to_sizes_that_the_network_takes():
    demands = Constraints(stride_zyx=(8, 8, 8), min_tile_zyx=(8, 8, 8))
    assert probe_of(CPU, 2, (32, 40, 48), demands) == (1, 2, 32, 40, 48)
    _, _, *patch = probe_of(CPU, 1, (128, 128, 128), demands)
    assert patch == [40, 40, 40]
    assert probe_of(CPU, 1, (3, 512, 512), Constraints(dims=2, context_slices=1))[2] == 3


def test_a_machine_that_is_busy_for_a_moment_does_not_decide_alone(monkeypatch):
    """Passes take 10 seconds of the clock and 1 of the processor, of which two threads share the work."""
    now = {"clock": 0.0, "processor": 0.0}

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 1)

        def forward(self, x):
            if x.device.type == "cpu":
                now["clock"], now["processor"] = now["clock"] + 10, now["processor"] + 1
            return self.conv(x)

    monkeypatch.setattr(runtime_trial.time, "perf_counter", lambda: now["clock"])
    monkeypatch.setattr(measure_runtime.time, "process_time", lambda: now["processor"])
    flops = 2 * 64 * 2
    for threads, seconds in ((2, 1), (1, 2)):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            assert measure_runtime.speed_of(FP32, Slow(), SHAPE) == pytest.approx(
                3 * flops / seconds
            )


class Thresholded(nn.Module):
    """What it computes depends on values, so that its operations cannot be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if float(x.sum()) < 1e9 else x


def test_any_network_is_tried_where_its_tiles_repay_it(took, monkeypatch):
    took["fp32, channels-last"] = 0.1
    tile, usual = (1, 4, 4, 4), Constraints()
    many = measure_runtime.REPAID
    assert choose_for_tiles(BF16, net(), tile, many, usual).precision == "fp32"
    monkeypatch.setattr(runtime_trial.Trial, "__call__", never)
    heard = net()
    heard.register_forward_hook(lambda *_: None)
    for network, tiles in ((net(), many - 1), (heard, many), (Thresholded(), many)):
        assert choose_for_tiles(BF16, network, tile, tiles, usual) == BF16
    assert choose_for_tiles(FP32, net(), tile, many, usual) == FP32
