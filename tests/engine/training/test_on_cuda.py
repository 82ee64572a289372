"""Trainings on a card that is pretended: they learn what they learn on the CPU, and the card is rarely waited for.

What a pretended card cannot show stands in `tests/pretended_cuda.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.engine.model.runtime import Runtime
from tests.pretended_cuda import pretended_cuda

SETTINGS = (
    "--set", "model.options.features=[4, 8]", "--patch", "8,16,16", "--batch-size", "2",
    "--set", "train.steps_per_epoch=4", "--set", "train.log_every=1",
)  # fmt: skip
PLAIN = ("--set", "augment.preset=none", "--set", "train.ema=0.9")
"""Nothing is drawn at random on the device, whose generator is another one."""
STEPS = 8
OF_A_STEP = (
    "step.py",
    "loading.py",
    "unet.py",
    "blocks.py",
    "norm.py",
    "dice",
    "cross",
    "deep",
    "spatial",
    "combined",
)
"""Files whose functions run in every step."""
OF_A_VALIDATION = {
    "checkpoint.py:<dictcomp>", "epoch.py:<dictcomp>",  # weights that are written
    "sliding_window.py:_check_finite", "resample_logits.py:_make", "source_grid.py:to_source_axes",
}  # fmt: skip


def train(mini_set: Path, folder: Path, device: str, *more: str) -> Any:
    command = ["train", str(mini_set), "-o", str(folder), *SETTINGS, "--device", device, *more]
    if "--precision" not in more:
        command += ["--precision", "fp32"]
    return CliRunner().invoke(app, [*command, "--steps", str(STEPS)])


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.fixture(scope="module")
def expected(mini_set, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cpu") / "run"
    result = train(mini_set, folder, "cpu", *PLAIN)
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["--set", "train.cache=device"],
        pytest.param(["--set", "train.cache=disk", "--set", "train.workers=2"], marks=pytest.mark.slow),
    ],
    ids=["scans on the card", "workers"],
)  # fmt: skip
def test_a_run_learns_what_it_learns_on_the_cpu(mini_set, expected, tmp_path, monkeypatch, options):
    with pretended_cuda(monkeypatch) as card:
        result = train(mini_set, tmp_path / "run", "cuda", *PLAIN, *options)
        assert result.exit_code == 0, result.output + repr(result.exception)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(expected), rtol=2e-3)
    one, two = (
        json.loads((folder / "validation" / "report.json").read_text())["mean_dice"]
        for folder in (expected, tmp_path / "run")
    )
    assert two == pytest.approx(one, abs=0.01)
    assert "cuda, fp32, channels-last" in result.output
    every_step = {line: n for line, n in card.waits.items() if line.startswith(OF_A_STEP)}
    assert ("loading.py:on_device" in card.sent) == (options[1] == "train.cache=device")
    assert ("loading.py:_transform" in card.sent) == (options[1] == "train.cache=disk")
    # clip_grad_norm_ groups tensors by their real device, so that one wait of `_update` is only pretended
    assert every_step == {"step.py:loss_target": STEPS, "step.py:_update": 2 * STEPS}, card.waits
    assert set(card.waits) - set(every_step) == OF_A_VALIDATION


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "options"),
    [("fp16", []), ("bf16", ["--set", "train.cache=disk", "--set", "train.workers=2"])],
)
def test_half_precision_trains(mini_set, expected, tmp_path, monkeypatch, precision, options):
    """With augmentation, of scans on the card and of pieces that workers read."""
    with pretended_cuda(monkeypatch):
        result = train(mini_set, tmp_path / "run", "cuda", "--precision", precision, *options)
        assert result.exit_code == 0, result.output + repr(result.exception)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(expected), rtol=0.1)


@pytest.mark.slow
def test_a_run_goes_on_where_it_ended(mini_set, expected, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with pretended_cuda(monkeypatch):
        assert train(mini_set, folder, "cuda", *PLAIN).exit_code == 0
        longer = ["train", "--resume", "--extend", "--steps", "12", "-o", str(folder)]
        result = CliRunner().invoke(app, longer)
        assert result.exit_code == 0, result.output + repr(result.exception)
    assert len(losses(folder)) == 12


def test_a_card_that_is_too_small_is_an_error_with_a_way_out(mini_set, tmp_path, monkeypatch):
    with pretended_cuda(monkeypatch, capacity=2**17):
        result = train(
            mini_set,
            tmp_path / "run",
            "cuda",
            "--set",
            "train.cache=disk",
            "--set",
            "train.workers=0",
        )
    assert result.exit_code == 1
    assert (
        "The memory of cuda does not suffice for one patch of 8 x 16 x 16 voxels" in result.stderr
    )
    assert "--patch" in result.stderr


def forgetting_images(self: Runtime, x: torch.Tensor) -> torch.Tensor:
    return x.cpu()


def test_a_batch_that_is_left_on_the_cpu_is_noticed(mini_set, tmp_path, monkeypatch):
    """As if `.to(self.device)` were missing in `Runtime.tensor`."""
    with pretended_cuda(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(Runtime, "tensor", forgetting_images)
        result = train(mini_set, tmp_path / "run", "cuda")
    assert "same device, but found cpu and cuda:0" in repr(result.exception) + result.output
