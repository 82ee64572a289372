"""When OpenVINO is tried, by which figures it is chosen, and what is kept for the next process.

OpenVINO is played by another computation of the same network here, and the clock by given numbers; see
`test_openvino.py` for the real one.
"""

from __future__ import annotations

import contextlib
import json

import pytest
import torch

import ctseg
from ctseg.engine.inference.backends import choice, records
from ctseg.engine.inference.backends.choice import Work, computation_of, expecting, identify, used
from ctseg.engine.model.runtime import Runtime, choose

TILE = (1, 8, 8, 8)
AUTO = Runtime(torch.device("cpu"), "fp32", False, "test", backend="auto")
ASKED = Runtime(torch.device("cpu"), "fp32", False, "test", backend="openvino")
MANY = Work(TILE, 1000)


class Net(torch.nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = torch.nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Played:
    """An OpenVINO that computes the network itself, plus an error.

    Attributes:
        seconds: a tile of PyTorch, and of OpenVINO.
        error: what is added to the logits.
        conversions, loads: how often each was done.
    """

    def __init__(self) -> None:
        self.seconds = {"torch": 1.0, "openvino": 0.4}
        self.error, self.failure = 0.0, None
        self.conversions = self.loads = 0
        self.known: dict[bytes, torch.nn.Module] = {}

    def convert(self, network, tile):
        self.conversions += 1
        if self.failure is not None:
            raise self.failure
        return network

    def program(self, network, precision, threads):
        played = self

        class Run:
            def __call__(self, tiles):
                return network(tiles) + played.error

        class Program:
            def run(self):
                return Run()

        return Program()

    def save(self, network, file):
        name = str(id(network)).encode()
        self.known[name] = network
        file.write_bytes(name)
        file.with_suffix(".bin").write_bytes(b"weights")

    def load(self, description, weights):
        assert weights == b"weights"
        self.loads += 1
        return self.known[description]

    def clock(self, compute, tile):
        return self.seconds["openvino" if type(compute).__name__ == "Run" else "torch"]


@pytest.fixture
def played(monkeypatch, tmp_path):
    found = Played()
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "cache"))
    for name, call in (
        ("convert", found.convert), ("Program", found.program), ("save", found.save), ("load", found.load),
        ("version", lambda: "1.2"), ("about", lambda: {"openvino": "1.2", "processor": "some"}),
    ):  # fmt: skip
        monkeypatch.setattr(choice.openvino, name, call)
    monkeypatch.setattr(choice, "_seconds", found.clock)
    return found


def computes(compute) -> str:
    return "openvino" if type(compute).__name__ == "Run" else "torch"


def identified(seed: int = 0) -> Net:
    """As a network of another process: the same weights, nothing known of it here."""
    net = Net(seed)
    identify(net, json.dumps({"architecture": "net"}))
    return net


@pytest.mark.parametrize(
    ("torch_s", "openvino_s", "expected"),
    [(1.0, 0.4, "openvino"), (1.0, 0.94, "openvino"), (1.0, 0.96, "torch"), (0.4, 1.0, "torch")],
)
def test_the_faster_one_computes(played, torch_s, openvino_s, expected):
    played.seconds = {"torch": torch_s, "openvino": openvino_s}
    notes: list[str] = []
    net = Net()
    compute = computation_of(net, AUTO, MANY, notes.append)
    assert computes(compute) == expected
    assert len(notes) == 1 and notes[0].startswith(expected) and f"{openvino_s:.3g} s" in notes[0]
    assert used([net]) == notes
    assert computes(computation_of(net, AUTO, MANY, notes.append)) == expected
    assert played.conversions == len(notes) == 1  # neither is measured nor told again


@pytest.mark.parametrize(
    ("tiles", "scans", "seconds", "tried"),
    [
        (choice.FEWEST - 1, 1, 100.0, 0),  # a few tiles, however slow
        (choice.FEWEST - 1, 10, 100.0, 1),  # in each of many scans
        (1000, 1, 0.001, 0),  # a second in all
        (1000, 1, 0.1, 1),
        (20, 1, 1.0, 0),  # the trial itself takes tiles
        (200, 1, 1.0, 1),
    ],
)
def test_a_conversion_must_be_worth_its_time(played, tiles, scans, seconds, tried):
    played.seconds = {"torch": seconds, "openvino": seconds / 4}
    net, notes = Net(), []
    with expecting([net], scans):
        compute = computation_of(net, AUTO, Work(TILE, tiles), notes.append)
    assert played.conversions == tried == len(notes)
    assert computes(compute) == ("openvino" if tried else "torch")


def test_pytorch_is_timed_only_where_its_time_decides(played, monkeypatch):
    def never(_trial):
        raise AssertionError("timed")

    monkeypatch.setattr(choice._Trial, "_torch_seconds", never)
    net = Net()
    assert computes(computation_of(net, AUTO, Work(TILE, 80))) == "torch"
    assert used([net]) == ["torch: 80 tiles do not repay a conversion."]
    with pytest.raises(AssertionError, match="timed"):
        computation_of(Net(), AUTO, Work(TILE, 81))


def test_many_small_scans_are_worth_it_in_the_end(played):
    played.seconds = {"torch": 0.1, "openvino": 0.03}
    net = Net()
    found = [computes(computation_of(net, AUTO, Work(TILE, 10))) for _ in range(80)]
    first = found.index("openvino")
    assert 50 < first < 65 and set(found[first:]) == {"openvino"}


def test_who_asks_for_openvino_gets_it_for_one_tile_and_however_slow_it_is(played):
    played.seconds = {"torch": 0.1, "openvino": 5.0}
    assert computes(computation_of(Net(), ASKED, Work(TILE, 1))) == "openvino"


@pytest.mark.parametrize("runtime", [AUTO, ASKED], ids=["auto", "asked"])
@pytest.mark.parametrize("error", [0.1, float("nan"), float("inf")])
def test_other_logits_than_those_of_pytorch_are_refused(played, runtime, error):
    played.error = error
    notes: list[str] = []
    assert computes(computation_of(Net(), runtime, MANY, notes.append)) == "torch"
    assert "OpenVINO's logits differ by" in notes[0]


def test_what_differs_by_rounding_is_accepted(played):
    played.error = 1e-5
    assert computes(computation_of(Net(), AUTO, MANY)) == "openvino"


def test_bfloat16_may_differ_as_far_as_that_of_pytorch(played):
    bf16 = Runtime(torch.device("cpu"), "bf16", True, "test", backend="auto")
    played.error = 3e-3  # of logits of about 1.5: PyTorch's own differ by half a per cent
    assert computes(computation_of(Net(), bf16, MANY)) == "openvino"
    played.error = 0.1
    assert computes(computation_of(Net(), bf16, MANY)) == "torch"


@pytest.mark.parametrize("failure", [RuntimeError("no\nsuch operation"), AssertionError()])
def test_a_network_that_cannot_be_converted_is_computed_by_pytorch(played, failure):
    played.failure = failure
    notes: list[str] = []
    assert computes(computation_of(Net(), ASKED, MANY, notes.append)) == "torch"
    assert f"cannot compute the network ({type(failure).__name__}" in notes[0]


def test_short_memory_is_left_to_pytorch(played, monkeypatch):
    monkeypatch.setattr(choice.machine, "free_memory", lambda: 2**30)
    net = Net()
    assert computes(computation_of(net, AUTO, MANY)) == "torch"
    assert used([net]) == ["torch: memory is short."]


def test_hooks_are_not_passed_over(played):
    net = Net()
    assert computes(computation_of(net, AUTO, MANY)) == "openvino"
    handle = net.conv.register_forward_hook(lambda *_: None)
    assert computes(computation_of(net, AUTO, MANY)) == "torch"
    handle.remove()
    assert computes(computation_of(net, AUTO, MANY)) == "openvino"


@pytest.mark.parametrize("how", ["in place", "data", "replaced"])
def test_changed_weights_are_converted_anew(played, how):
    net = Net()
    computation_of(net, AUTO, MANY)
    with torch.no_grad():
        if how == "in place":
            net.conv.bias += 1
        elif how == "data":
            net.conv.weight.data[0, 0, 0, 0, 0] += 1
        else:
            net.conv.bias.data = net.conv.bias.data + 1
    computation_of(net, AUTO, MANY)
    assert played.conversions == 2


# ---------------------------------------------------------------- on disk


def test_the_next_process_takes_what_was_kept(played):
    computation_of(identified(), AUTO, MANY)
    notes: list[str] = []
    assert computes(computation_of(identified(), AUTO, MANY, notes.append)) == "openvino"
    assert (played.conversions, played.loads) == (1, 1) and "0.4 s a tile, PyTorch 1 s" in notes[0]


def test_what_was_slower_is_not_tried_again(played):
    played.seconds["openvino"] = 2.0
    computation_of(identified(), AUTO, MANY)
    assert computes(computation_of(identified(), AUTO, MANY)) == "torch"
    assert (played.conversions, played.loads) == (1, 0)
    assert not list(records.folder().rglob("*.bin"))


def test_a_kept_network_is_used_for_less_work_than_a_conversion_takes(played):
    computation_of(identified(), AUTO, MANY)
    assert computes(computation_of(identified(), AUTO, Work(TILE, 20))) == "openvino"
    assert computes(computation_of(identified(), AUTO, Work(TILE, choice.FEWEST - 1))) == "torch"
    (path,) = records.folder().glob("*/record.json")
    found = json.loads(path.read_text())
    found["measured"]["start_s"] = 100.0
    path.write_text(json.dumps(found))
    assert computes(computation_of(identified(), AUTO, Work(TILE, 20))) == "torch"


@pytest.mark.parametrize("seed_tile", [(1, TILE), (0, (1, 8, 8, 16))], ids=["weights", "tile"])
def test_other_weights_or_tiles_are_other_networks(played, seed_tile):
    seed, tile = seed_tile
    computation_of(identified(), AUTO, MANY)
    computation_of(identified(seed), AUTO, Work(tile, 1000))
    assert (played.conversions, played.loads) == (2, 0)


@pytest.mark.parametrize("name", ["network.xml", "network.bin", "record.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_damaged_files_are_not_believed(played, name, damage):
    computation_of(identified(), AUTO, MANY)
    (file,) = records.folder().glob(f"*/{name}")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"{}" if damage == "changed" else file.read_bytes()[:-1])
    assert computes(computation_of(identified(), AUTO, MANY)) == "openvino"
    assert (played.conversions, played.loads) == (2, 0)
    assert computes(computation_of(identified(), AUTO, MANY)) == "openvino"
    assert (played.conversions, played.loads) == (2, 1)  # it was written anew


def test_a_network_of_unknown_origin_is_not_kept(played):
    computation_of(Net(), AUTO, MANY)
    assert not records.folder().exists()


def test_a_cache_that_cannot_be_written_is_no_error(played, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CTSEG_CACHE", str(tmp_path / "file"))
    assert computes(computation_of(identified(), AUTO, MANY)) == "openvino"


def test_the_least_recently_used_networks_go_first(played, monkeypatch):
    for seed in range(3):
        computation_of(identified(seed), AUTO, MANY)
    size = sum(f.stat().st_size for f in next(records.folder().iterdir()).iterdir())
    monkeypatch.setattr(records, "CACHE_BYTES", int(2.5 * size))
    import os

    for age, path in enumerate(sorted(records.folder().iterdir())):
        os.utime(path, (age + 1, age + 1))
    oldest = min(records.folder().iterdir(), key=lambda path: path.stat().st_mtime)
    computation_of(identified(3), AUTO, MANY)
    assert len(list(records.folder().iterdir())) == 2 and not oldest.exists()


# ---------------------------------------------------------------- what is asked for


def test_openvino_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("ctseg.engine.model.runtime.has_openvino", lambda: False)
    assert choose("cpu", "auto", "auto").backend == "torch"
    with pytest.raises(ctseg.errors.BadInput, match="openvino is not installed") as found:
        choose("cpu", "auto", "openvino")
    assert found.value.hint == "Install it: pip install 'ctseg[openvino]'"


def test_what_auto_leaves_to_pytorch(monkeypatch):
    monkeypatch.setattr("ctseg.engine.model.runtime.has_openvino", lambda: True)
    assert choose("cpu", "auto", "auto").backend == choose("cpu", "bf16", "auto").backend == "auto"
    assert choose("cpu", "fp32", "openvino").backend == "openvino"
    assert choose("cpu", "fp32", "auto").backend == "torch"  # computes as PyTorch does
    assert choose("cpu", "fp16", "auto").backend == choose("cpu").backend == "torch"
    monkeypatch.setenv("WORLD_SIZE", "2")  # processes may choose differently
    assert choose("cpu", "auto", "auto").backend == "torch"


@pytest.mark.parametrize(
    ("precision", "backend", "words"),
    [("fp16", "openvino", "not fp16 on cpu"), ("auto", "onnx", "'onnx' is no backend")],
)
def test_what_cannot_be_asked_for(monkeypatch, precision, backend, words):
    monkeypatch.setattr("ctseg.engine.model.runtime.has_openvino", lambda: True)
    with pytest.raises(ctseg.errors.BadInput, match=words):
        choose("cpu", precision, backend)


def test_scans_are_expected_only_meanwhile():
    net = Net()
    with contextlib.suppress(KeyError), expecting([net], 5):
        assert choice._states[net].scans == 5
        raise KeyError
    assert choice._states[net].scans == 1
