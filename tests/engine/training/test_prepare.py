"""Preparation beforehand and at the start of a training: the same plan, so that nothing is prepared twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctseg
from ctseg.config import PreprocessConfig, RunConfig, parse_config
from ctseg.data.store import Store
from ctseg.engine.model.weights import read_weights, save_weights
from ctseg.engine.training import planned
from ctseg.engine.training.prepare import prepare
from ctseg.engine.training.run import train


class PreparingError(Exception):
    """Raised with the folder in which cases are about to be prepared."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two scans of which a small patch sees little."""
    label = np.zeros((100, 100, 100), np.uint8)
    label[40:60, 40:60, 40:60] = 1
    for number in range(2):
        for kind, array in (("images", label.astype(np.int16) * (100 + number)), ("labels", label)):
            path = tmp_path / "data" / kind / f"c{number}.nii"
            path.parent.mkdir(parents=True, exist_ok=True)
            ctseg.write(ctseg.Volume.from_array(array, spacing_xyz=(1, 1, 1)), path)
    return tmp_path / "data"


def folder_of(start: Callable[..., Any], config: RunConfig, **more: Any) -> Path:
    with pytest.raises(PreparingError) as caught:
        start(config, **more)
    folder: Path = caught.value.args[0]
    return folder


@pytest.fixture(autouse=True)
def nothing_prepared(mini_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing stops before the first case; the model of a few steps is trained before."""

    def stop(self: Store, *arguments: Any, **named: Any) -> None:
        raise PreparingError(self.folder)

    monkeypatch.setattr(Store, "prepare", stop)


def test_time_and_memory_decide_as_in_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "speed_of", lambda *arguments: 1e9)

    def config(**train: str) -> RunConfig:
        settings = {"device": "cpu", "precision": "fp32", **train}
        return parse_config({"data": {"path": str(data)}, "train": settings})

    usual = folder_of(prepare, config(memory="16G"))
    for name, limits in (("time", {"time": "1h"}), ("memory", {"memory": "800M"})):
        beforehand = folder_of(prepare, config(**limits))
        assert folder_of(train, config(**limits), output=tmp_path / name) == beforehand
        assert beforehand != usual


def test_the_steps_of_the_model_that_training_begins_with_are_taken_over(
    mini_run, mini_set, tmp_path
):
    tensors, card = read_weights(mini_run / "best.safetensors")
    steps = ({"kind": "orient"}, {"kind": "rescale", "low": -200, "high": 200})
    file = tmp_path / "first.safetensors"
    changed = card.model_copy(update={"preprocess": PreprocessConfig(steps=steps)})
    save_weights(file, tensors, changed)
    given = {"data": {"path": str(mini_set)}, "train": {"device": "cpu", "precision": "fp32"}}
    config = parse_config(given | {"model": {"init": str(file)}})
    beforehand = folder_of(prepare, config)
    assert beforehand != folder_of(prepare, parse_config(given))
    assert beforehand == folder_of(train, config, output=tmp_path / "run")
