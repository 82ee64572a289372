"""Services that get the numbers of a run: what they get, how they resume, and what happens where they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctseg import plugins
from ctseg.config import RunConfig
from ctseg.engine.training import trackers
from ctseg.engine.training.trackers import MLflow, Trackers, Wandb, check_trackers, numbers_of
from ctseg.errors import BadInput, UnknownName
from ctseg.extension_specs import TrackerSpec

EPOCH = {
    "step": 8,
    "loss": 0.5,
    "mean_dice": None,
    "dice": {"box": 0.7, "big brick": float("nan")},
    "text": "no",
}


class Memory:
    """Keeps what it gets; fails in step 12 if its folder is named so."""

    def __init__(self, folder: Path, config: Any, run_id: str | None) -> None:
        self.folder, self.run_id, self.told = folder, run_id or "new", []  # type: ignore[var-annotated]
        self.config = config

    def write(self, kind: str, fields: Any) -> None:
        if fields["step"] == 12:
            raise ConnectionError("gone")
        self.told.append((kind, numbers_of(kind, fields)))

    def close(self) -> None:
        self.told.append(("closed", {}))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[Memory]:
    """The trackers of the name `memory` that were opened."""
    opened: list[Memory] = []

    def open_(folder: Path, config: Any, run_id: str | None) -> Memory:
        opened.append(Memory(folder, config, run_id))
        return opened[-1]

    spec = TrackerSpec("memory", open_, "keeps numbers", needs="json", install="nothing")
    real = plugins.registry()
    stand_in = SimpleNamespace(spec=spec)

    def get(kind: Any, name: str, **more: Any) -> Any:
        return stand_in if name == "memory" else real.get(kind, name, **more)

    monkeypatch.setattr(trackers.plugins, "registry", lambda: SimpleNamespace(get=get))
    return opened


def config(*names: str) -> RunConfig:
    return RunConfig.model_validate({"train": {"trackers": names}})


def test_numbers_are_flat_and_finite():
    assert numbers_of("epoch", EPOCH) == {"loss": 0.5, "dice/box": 0.7}
    assert numbers_of("step", {"step": 3, "loss": 1, "lr": 0.1}) == {
        "step/loss": 1.0,
        "step/lr": 0.1,
    }


def test_a_resumed_run_goes_on_under_its_id(memory, tmp_path):
    for _ in range(2):
        every = Trackers(tmp_path, config("memory"), print)
        every.write("epoch", EPOCH)
        every.close()
    one, two = memory
    assert one.run_id == "new" and two.run_id == "new" and two is not one
    assert one.told == [("epoch", {"loss": 0.5, "dice/box": 0.7}), ("closed", {})]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"memory": "new"}
    assert one.config["train"]["trackers"] == ["memory"]


def test_a_tracker_that_fails_is_left_out(memory, tmp_path):
    said: list[str] = []
    every = Trackers(tmp_path, config("memory"), said.append)
    for step in (8, 12, 16):
        every.write("epoch", {"step": step, "loss": 1.0})
    every.close()
    assert memory[0].told == [("epoch", {"loss": 1.0})]
    assert said == ["Warning: memory gets no numbers of this run any more: ConnectionError: gone"]


def test_without_trackers_nothing_is_written(tmp_path):
    every = Trackers(tmp_path, config(), print)
    every.write("epoch", EPOCH)
    every.close()
    assert not list(tmp_path.iterdir())


def test_unknown_and_missing_trackers_are_refused(monkeypatch):
    with pytest.raises(UnknownName, match="wandb"):
        check_trackers(["wandbb"])
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput) as error:
        check_trackers(["mlflow"])
    assert error.value.hint == 'Install it: pip install "ctseg[mlflow]"'


def test_wandb_is_called_as_its_documentation_says(monkeypatch, tmp_path):
    calls: list[Any] = []

    class Run:
        id = "abc"

        def log(self, numbers: Any, step: int) -> None:
            calls.append((numbers, step))

        def finish(self) -> None:
            calls.append("finished")

    def init(**options: Any) -> Run:
        calls.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tracker = Wandb(tmp_path / "first", {"seed": 3}, None)
    tracker.write("epoch", EPOCH)
    tracker.close()
    assert (calls[0]["project"], calls[0]["name"], calls[0]["config"]) == (
        "ctseg",
        "first",
        {"seed": 3},
    )
    assert calls[1:] == [({"loss": 0.5, "dice/box": 0.7}, 8), "finished"]
    Wandb(tmp_path / "first", {}, tracker.run_id)
    assert (calls[-1]["id"], calls[-1]["resume"]) == ("abc", "allow")


@pytest.mark.slow
def test_a_run_is_tracked_by_wandb_offline(mini_set, mini_options, tmp_path):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "ctseg",
        "train",
        str(mini_set),
        "-o",
        str(run),
        "--steps",
        "4",
    ]
    command += [*mini_options, "--set", 'train.trackers=["wandb"]']
    environment = {**os.environ, "WANDB_MODE": "offline"}  # wandb leaves its traces in the process
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no numbers" not in done.stderr
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert json.loads((run / "trackers.json").read_text())["wandb"] in folder.name
    assert list(folder.glob("*.wandb"))


@pytest.mark.slow
def test_a_run_is_tracked_by_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    data = config("mlflow").model_dump(mode="json")
    tracker = MLflow(tmp_path / "first", data, None)
    tracker.write("epoch", EPOCH)
    again = MLflow(tmp_path / "first", data, tracker.run_id)
    again.write("epoch", {**EPOCH, "step": 16, "loss": 0.25})
    again.close()
    client = MlflowClient()
    found = client.get_run(tracker.run_id)
    assert found.data.metrics == {"loss": 0.25, "dice/box": 0.7}
    assert [m.step for m in client.get_metric_history(tracker.run_id, "loss")] == [8, 16]
    assert found.data.params["seed"] == "0" and found.info.status == "FINISHED"
