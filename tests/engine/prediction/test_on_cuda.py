"""Predictions on a card that is pretended: the files are those of the CPU, and the card is rarely waited for.

What a pretended card cannot show stands in `tests/pretended_cuda.py`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.engine.inference import sliding_window
from ctseg.engine.model.runtime import Runtime, choose
from ctseg.engine.model.weights import save_weights
from ctseg.engine.prediction.folder import Execution, predict_folder
from ctseg.engine.prediction.inputs import find_items
from ctseg.engine.prediction.multiprocess.team import Team
from ctseg.engine.prediction.request import Request
from ctseg.zoo.load import load
from tests.engine.prediction.multiprocess.test_team import together
from tests.pretended_cuda import GIB, pretended_cuda

_spec = importlib.util.spec_from_file_location(
    "small_model", Path(__file__).parents[1] / "small_model.py"
)
assert _spec is not None and _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)

STEPS = (
    {"kind": "orient"},
    {"kind": "normalise"},
    {"kind": "resample", "spacing_xyz": [1.2, 1.2, 1.2]},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small.scans(tmp_path / "in", 2)
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        network = ctseg.create_model("unet3d", in_channels=1, out_channels=3, features=(4, 4))
        predict = {"tile_zyx": (8, 8, 8), "mirror_axes": ["z", "x"]}
        card = small.card_of(
            name=f"{name}.v1", preprocess={"steps": STEPS}, predict=predict,
        )  # fmt: skip
        save_weights(tmp_path / f"{name}.safetensors", network.state_dict(), card)
    return tmp_path


def predict(folder: Path, device: str, *more: str, models: tuple[str, ...] = ("one",)) -> Path:
    out = folder / device
    named = [word for name in models for word in ("-m", str(folder / f"{name}.safetensors"))]
    command = ["predict", str(folder / "in"), *named, "-o", str(out), "--device", device, *more]
    if "--precision" not in more:
        command += ["--precision", "fp32"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return out


def assert_same(one: Path, two: Path) -> None:
    names = [
        sorted(p.relative_to(f) for f in (folder,) for p in f.rglob("*") if p.is_file())
        for folder in (one, two)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        if name.name.endswith((".nii.gz", ".h5")):
            found, expected = ctseg.read(two / name).array, ctseg.read(one / name).array
            if found.dtype.kind == "f":
                np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
            else:
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ([], ("one",)),
        (["--probabilities", "--confidence", "--uncertainty", "--masks", "--statistics"], ("one",)),
        (["--tta", "--set", "skip_air=-50", "--set", "batch_size=3"], ("one",)),
        pytest.param(
            ["--set", "keep_largest=all", "--set", "fill_holes=all", "--instances"], ("one", "two"),
            marks=pytest.mark.slow,
        ),
        pytest.param(["--coarse", "two.safetensors", "--confidence"], ("one",), marks=pytest.mark.slow),
    ],
    ids=["labels", "all results", "views and air", "ensemble and rules", "cascade"],
)  # fmt: skip
def test_the_files_are_those_of_the_cpu(folder, monkeypatch, options, models):
    options = [str(folder / word) if word.endswith(".safetensors") else word for word in options]
    expected = predict(folder, "cpu", *options, models=models)
    with pretended_cuda(monkeypatch) as card:
        found = predict(folder, "cuda", *options, models=models)
    assert card.peak > 0
    assert_same(expected, found)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_half_precision_on_a_card(folder, monkeypatch, precision):
    expected = predict(folder, "cpu", "--probabilities")
    with pretended_cuda(monkeypatch, bf16=precision != "auto"):
        assert choose("cuda", precision).precision == ("fp16" if precision == "auto" else precision)
        found = predict(folder, "cuda", "--probabilities", "--precision", precision)
    one, two = (ctseg.read(f / "probabilities/scan0.h5").array for f in (expected, found))
    assert np.abs(one - two).max() < 0.05


def test_the_card_is_waited_for_once_a_slab_not_once_a_tile(folder, monkeypatch):
    """The line of each wait, so that a new one is seen; tiles, 2 x 2 in a row, are far more than slabs."""
    with pretended_cuda(monkeypatch) as card:
        out = predict(folder, "cuda")
    told = json.loads((out / "predictions.json").read_text())
    tiles = sum(case["tiles"] for case in told["cases"])
    of_a_slab = {
        "sliding_window.py:_check_finite",  # NaN is an error
        "resample_logits.py:_make",  # likewise, and infinity
        "source_grid.py:to_source_axes",  # what is written
    }
    of_a_call = {"weights.py:tensors_sha256", "activations.py:_on_cuda"}
    assert set(card.waits) == of_a_slab | of_a_call
    assert max(card.waits[line] for line in of_a_slab) < tiles


def test_a_card_without_room_gets_smaller_batches_and_then_smaller_tiles(folder, monkeypatch):
    expected = predict(folder, "cpu", "--tile", "16,16,16")
    with pretended_cuda(monkeypatch, capacity=GIB) as card:
        found = predict(folder, "cuda", "--tile", "16,16,16", "--memory", "1G")
        enough = card.peak
    assert_same(expected, found)
    with pretended_cuda(monkeypatch, capacity=int(0.8 * enough)) as card:
        # the estimate believes in more, so that the card runs out of memory on the way
        short = predict(folder, "cuda", "--tile", "16,16,16", "--memory", "1G")
    told = json.loads((short / "predictions.json").read_text())
    notes = "\n".join(note for case in told["cases"] for note in case["notes"])
    assert "16 x 16 x 16" in notes or "at a time" in notes or "in main memory" in notes
    for name in ("scan0.nii.gz", "scan1.nii.gz"):
        one, two = (ctseg.read(f / name).array for f in (expected, short))
        assert one.shape == two.shape


def test_processes_with_a_card_each(folder, monkeypatch):
    """Two threads play the two processes; each has the card of its number."""
    expected = predict(folder, "cpu")
    model = folder / "one.safetensors"

    def work(team: Team) -> None:
        with card.here():
            loaded = load(model, f"cuda:{team.rank}", "fp32").model
            items = find_items([str(folder / "in")], channels=1)
            predict_folder(
                loaded,
                items,
                Request(folder / "cuda"),
                execution=Execution(team=team, overlapped=False),
            )

    with pretended_cuda(monkeypatch, count=2) as card:
        for result in together(2, work):
            assert result is None, result
        assert card.held == {0, 1}
    assert_same(expected, folder / "cuda")


def test_a_tensor_that_is_left_on_the_cpu_is_noticed(folder, monkeypatch):
    """As if `.to(self.device)` were missing in `Runtime.tensor`, or `.to(self.place)` for the window's weights."""
    with pretended_cuda(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(sliding_window._Rows, "next", _next_without_to)
        segmenter = load(folder / "one.safetensors", "cuda", "fp32")
        patch.setattr(Runtime, "tensor", lambda self, x: x)
        with pytest.raises(RuntimeError, match="same device, but found cpu and cuda:0"):
            segmenter.predict(small.scan())


def _next_without_to(rows: Any) -> torch.Tensor:
    number = next(rows._rows)
    return torch.from_numpy(rows._new_slices(rows._grid.starts[0][number]))
