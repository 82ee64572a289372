"""The probe of a published model: made with it, run again by `verify` and `doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

import ctseg
from ctseg.cli import checks
from ctseg.engine.model.build import build_for
from ctseg.engine.model.runtime import choose
from ctseg.engine.model.weights import read_weights
from ctseg.errors import CorruptWeights
from ctseg.zoo import probe
from ctseg.zoo.probe import PROBE, load_network, read_probe
from ctseg.zoo.publish import publish
from ctseg.zoo.store import ZooEntry, write_index_entry
from ctseg.zoo.verify import NO_PROBE, verify
from tests.zoo.remote.server import make_entry

NAME = "unet3d.small_v1"


@pytest.fixture
def entry(own_zoo: Path) -> ZooEntry:
    """A model with a probe, recorded in the index."""
    made = ZooEntry(NAME, make_entry(own_zoo))
    probe.write_probe(made.folder, made.card())
    write_index_entry(own_zoo, NAME, made.folder)
    return made


def _of_models() -> list[checks.Finding]:
    return list(checks.probes())


def test_it_is_published_with_the_model(make_run) -> None:
    made = publish(make_run(), tag="v1", measure=False)
    assert (made.folder / PROBE).stat().st_size < 2**16
    assert [(check.sound, check.notes) for check in verify()] == [(True, ())]
    assert [(f.state, f.found) for f in _of_models()] == [
        ("ok", f"computes as published ({choose().precision})")
    ]


def test_its_logits_are_those_of_the_network(entry: ZooEntry) -> None:
    """Computed by hand from what the file holds."""
    (file,) = entry.weights()
    stored = safetensors.torch.load_file(entry.folder / PROBE)
    z, y, x, step = stored[f"{file.name}.layout"].tolist()
    block = stored[f"{file.name}.block"]
    tile = torch.cat([torch.cat([torch.cat([block] * 2, 1)] * 2, 2)] * 2, 3)
    assert tile.shape == (1, z, y, x) == (1, 16, 16, 16)
    tensors, card = read_weights(file)
    network = build_for(card, tensors).eval()
    network.load_state_dict(tensors)
    with torch.no_grad():
        logits = network(tile[None].float() / 64 - 2)
    expected = stored[f"{file.name}.logits"]
    torch.testing.assert_close(logits.flatten()[::step], expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0 and len(expected) <= probe.VALUES


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_precision_is_no_finding(entry: ZooEntry, precision: str) -> None:
    (file,) = entry.weights()
    expected = read_probe(entry.folder)[file.name]
    runtime = choose("cpu", precision)
    network = load_network(file, entry.card(), runtime)
    assert expected.problems(network, runtime, file.name) == []
    with torch.no_grad():
        [p for p in network.parameters() if p.ndim == 5][-1].mul_(1.5)  # of the output
    assert "computes other values" in expected.problems(network, runtime, file.name)[0]


def test_a_plugin_that_computes_something_else_is_found(
    entry: ZooEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(card, tensors):
        network = build_for(card, tensors)
        for layer in network.modules():
            if isinstance(layer, torch.nn.LeakyReLU):
                layer.negative_slope = 0.5
        return network

    monkeypatch.setattr(probe, "build_for", other)
    (check,) = verify()
    assert "small.safetensors computes other values" in check.problems[0]
    (finding,) = _of_models()
    assert finding.state == "failed" and "computes other values" in finding.found


@pytest.mark.parametrize("error", [RuntimeError("sizes"), ValueError("one spatial element")])
def test_a_network_that_fails_on_it_is_found(
    entry: ZooEntry, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(probe, "_logits", fails)
    (check,) = verify()
    assert "deviate by inf" in check.problems[0]


def test_an_older_entry_has_none(own_zoo: Path) -> None:
    folder = make_entry(own_zoo)
    write_index_entry(own_zoo, NAME, folder)
    (check,) = verify()
    assert check.sound and check.notes == (NO_PROBE,)
    assert [(f.state, f.found) for f in _of_models()] == [("ok", "has no probe")]
    assert ctseg.load(NAME).card.name == NAME


def test_it_is_compared_with_the_index(entry: ZooEntry) -> None:
    (entry.folder / PROBE).unlink()
    (check,) = verify()
    assert f"{PROBE} is missing" in check.problems


def _changed(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = {
        "block": torch.zeros((1, 8, 8, 8), dtype=torch.uint8),
        "layout": torch.tensor((16, 16, 16, 3)),
        "logits": torch.ones(5),
    }
    return {f"small.safetensors.{key}": value for key, value in (tensors | changes).items()}


@pytest.mark.parametrize(
    "tensors",
    [
        _changed(block=torch.zeros((1, 8, 8, 8))),
        _changed(block=torch.zeros((1, 8, 8, 9), dtype=torch.uint8)),
        _changed(layout=torch.tensor((2**20, 2**20, 2**20, 1))),
        _changed(layout=torch.tensor((16, 16, 16, 0))),
        _changed(layout=torch.tensor((16, 16, 16))),
        _changed(layout=torch.ones(4)),
        _changed(logits=torch.full((5,), float("nan"))),
        _changed(logits=torch.ones(0)),
        _changed(logits=torch.ones(5).half()),
        {"small.safetensors.logits": torch.ones(5)},
    ],
)
def test_a_damaged_one_is_a_finding(entry: ZooEntry, tensors: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(tensors, entry.folder / PROBE)
    with pytest.raises(CorruptWeights, match="is damaged"):
        read_probe(entry.folder)
    assert any("is damaged" in text for text in verify()[0].problems)
    assert _of_models()[0].state == "warning"
    assert ctseg.load(NAME).card.name == NAME  # which does not need it


def test_what_is_no_probe_at_all(entry: ZooEntry) -> None:
    for content in (b"", b"nonsense", bytes(probe.LARGEST_PROBE + 1)):
        (entry.folder / PROBE).write_bytes(content)
        with pytest.raises(CorruptWeights, match="is damaged"):
            read_probe(entry.folder)
    (entry.folder / PROBE).write_bytes(safetensors.torch.save(_changed(logits=torch.ones(5))))
    assert any("deviate by inf" in text for text in verify()[0].problems)  # another number of them


@pytest.mark.parametrize("part", ["build_for", "_logits"])
def test_what_does_not_run_here_is_published_without(
    make_run, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fails(*_: object) -> torch.Tensor:
        raise TypeError("a plugin")

    with monkeypatch.context() as patched:
        patched.setattr(probe, part, fails)
        made = publish(make_run(), tag="v1", measure=False)
    assert not (made.folder / PROBE).exists()
    assert verify()[0].notes == (NO_PROBE,)


def test_a_size_that_the_network_refuses_is_not_the_last(
    own_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ZooEntry(NAME, make_entry(own_zoo))
    logits = probe._logits

    def picky(network, block, tile, runtime):
        if tile[0] < 32:
            raise ValueError("Expected more than 1 spatial element")
        return logits(network, block, tile, runtime)

    monkeypatch.setattr(probe, "_logits", picky)
    probe.write_probe(made.folder, made.card())
    assert read_probe(made.folder)["small.safetensors"].tile_zyx == (32, 32, 32)
