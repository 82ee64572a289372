"""Steps that run out of memory, and steps whose loss or gradient is not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import ctseg
from ctseg.config import RunConfig, parse_config
from ctseg.engine.training import checkpoint, epoch, run
from ctseg.engine.training.step import Stepper
from ctseg.errors import RunFailed


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(run, "show_progress", lambda *_: None)
    monkeypatch.setattr(epoch, "show_scans", lambda *_: None)


def trained(mini_set: Path, folder: Path, options: dict[str, Any] | None = None) -> list[float]:
    """The losses of a run of six steps."""
    config: dict[str, Any] = {
        "data": {"path": str(mini_set)},
        "model": {"options": {"features": [4, 8], **(options or {})}},
        "loss": {"name": "dice_ce", "options": {"batch": True}},
        "train": {
            "steps": 6, "steps_per_epoch": 3, "patch_zyx": [8, 16, 16], "batch_size": 4, "log_every": 1,
            "device": "cpu", "precision": "fp32",
        },
    }  # fmt: skip
    ctseg.train(parse_config(config), output=folder)
    return losses(folder)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    log = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in log if line["kind"] == kind]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder, "step")]


class Small:
    """A device on which only so many patches pass through a network that is trained, forth or back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, patches: int, where: str = "forth") -> None:
        self.failures, count = 0, 0
        forward, backward = Stepper._forward, Stepper._backward

        def forth(stepper: Stepper, step: int, image: torch.Tensor, first: int) -> Any:
            nonlocal count
            count = len(image) if torch.is_grad_enabled() else 0
            logits = forward(stepper, step, image, first)
            if where == "forth" and count > patches:
                self.failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return logits

        def back(stepper: Stepper, value: torch.Tensor) -> bool:
            if where == "back" and count > patches:
                self.failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            return backward(stepper, value)

        monkeypatch.setattr(Stepper, "_forward", forth)
        monkeypatch.setattr(Stepper, "_backward", back)


@pytest.fixture(scope="module")
def expected(mini_set, tmp_path_factory) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "show_progress", lambda *_: None)
        patch.setattr(epoch, "show_scans", lambda *_: None)
        return trained(mini_set, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(("patches", "where"), [(1, "forth"), (3, "forth"), (3, "back")])
def test_a_batch_too_large_passes_in_parts(
    mini_set, tmp_path, monkeypatch, expected, patches, where
):
    small = Small(monkeypatch, patches, where)
    assert trained(mini_set, tmp_path) == pytest.approx(expected, abs=1e-5)
    halvings = {1: 2, 3: 1}[patches]  # of four patches
    assert small.failures == halvings
    (note,) = lines(tmp_path, "memory")
    once = 4 // 2**halvings
    assert note == {"kind": "memory", "step": 0, "patches_at_once": once, "batch_size": 4}
    assert checkpoint.load(tmp_path / "last")[0].parts == 2**halvings


@pytest.mark.slow
def test_a_resumed_run_keeps_its_parts(mini_set, tmp_path, monkeypatch):
    small = Small(monkeypatch, 2)
    alone, resumed = tmp_path / "alone", tmp_path / "resumed"
    trained(mini_set, alone)
    assert small.failures == 1
    step = Stepper.__call__

    def killed(stepper: Stepper, number: int) -> float:
        if number == 5:
            raise RuntimeError("killed")
        return step(stepper, number)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", killed)
        with pytest.raises(RuntimeError, match="killed"):
            trained(mini_set, resumed)
    assert small.failures == 2
    ctseg.train(RunConfig(), output=resumed, resume=True)
    assert small.failures == 2
    assert losses(alone) == losses(resumed)
    one, two = (
        safetensors.torch.load_file(f / "last" / "state.safetensors") for f in (alone, resumed)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_parts_count_once_for_batch_normalisation(mini_set, tmp_path, monkeypatch):
    Small(monkeypatch, 1)
    trained(mini_set, tmp_path, {"norm": "batch"})
    weights = safetensors.torch.load_file(tmp_path / "last" / "state.safetensors")
    counts = {int(v) for k, v in weights.items() if k.endswith("num_batches_tracked")}
    assert counts == {6 * 4}  # steps times parts


def test_dropout_in_parts_is_repeated(mini_set, tmp_path, monkeypatch):
    """The pass that computes the loss and the one that computes gradients drop the same values."""
    Small(monkeypatch, 1)
    seen: dict[int, list[torch.Tensor]] = {}
    forward = Stepper._forward

    def noted(stepper: Stepper, step: int, image: torch.Tensor, first: int) -> Any:
        logits = forward(stepper, step, image, first)
        if stepper.parts == 4 and step == 0:
            seen.setdefault(first, []).append(logits[0].detach())
        return logits

    monkeypatch.setattr(Stepper, "_forward", noted)
    trained(mini_set, tmp_path, {"dropout": 0.5})
    assert sorted(seen) == [0, 1, 2, 3]
    for one, two in seen.values():
        torch.testing.assert_close(one, two)


def test_a_patch_too_large_ends_the_run(mini_set, tmp_path, monkeypatch):
    Small(monkeypatch, 0)
    with pytest.raises(RunFailed, match="does not suffice for one patch of 8 x 16 x 16") as failed:
        trained(mini_set, tmp_path / "run")
    assert "--patch" in str(failed.value)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_names_the_cases_and_spoils_nothing(
    mini_set, tmp_path, monkeypatch, expected, what
):
    gradients = Stepper._gradients
    batches: list[list[str]] = []

    def spoilt(stepper: Stepper, step: int, image: torch.Tensor, loss: Any) -> torch.Tensor | None:
        value = gradients(stepper, step, image, loss)
        if step == 4 and value is not None:
            pieces = [stepper.loader._piece(step, index) for index in range(4)]
            batches.append([stepper.loader.cases[piece.case].id for piece in pieces])
            if what == "loss":
                return value * float("nan")
            next(p for p in stepper.net.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
        return value

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "_gradients", spoilt)
        with pytest.raises(RunFailed, match=f"The {what} became (nan|inf) at step 4") as failed:
            trained(mini_set, folder)
    assert batches[0]
    for case in batches[0]:
        assert case in failed.value.message
    weights = safetensors.torch.load_file(folder / "last" / "state.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    assert checkpoint.load(folder / "last")[0].step == 3
    ctseg.train(RunConfig(), output=folder, resume=True)
    assert losses(folder) == expected
