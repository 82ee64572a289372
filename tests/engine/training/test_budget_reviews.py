"""A time budget holds on a machine that changes its speed, and a killed run makes the same decisions again."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

import ctseg
from ctseg.config import RunConfig, TrainConfig, parse_config
from ctseg.engine.model import threads
from ctseg.engine.training import checkpoint, clock, epoch, forecast, run, step, time_budget
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.job import Silent
from ctseg.engine.training.optim import Schedule

BUDGET = 60.0
VALIDATION = 0.5
MEASURED = 8
"""Steps of a measurement."""


class Machine:
    """A machine with a clock of its own, on which each step takes as long as a test says.

    Args:
        seconds: of a step, by the number of steps that were made so far, those of measurements included.
    """

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now, self.calls, self.dies_at = 0.0, 0, -1
        self.seconds = seconds

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = SimpleNamespace(monotonic=lambda: self.now)
        for module in (run, clock, time_budget):
            monkeypatch.setattr(module, "time", fake)
        make_step, validate = step.Stepper.__call__, epoch.validate

        def stepped(stepper: Any, number: int) -> float:
            if self.calls == self.dies_at:
                raise RuntimeError("killed")
            self.now += self.seconds(self.calls)
            self.calls += 1
            return make_step(stepper, number)

        def validated(model: Any, cases: Any, *rest: Any) -> Any:
            self.now += VALIDATION * len(cases)
            return validate(model, cases, *rest)

        monkeypatch.setattr(step.Stepper, "__call__", stepped)
        monkeypatch.setattr(run, "show_progress", lambda *_: None)
        monkeypatch.setattr(epoch, "show_scans", lambda *_: None)
        for module in (epoch, time_budget):
            monkeypatch.setattr(module, "validate", validated)


def config_of(mini_set: Path, **train: Any) -> RunConfig:
    options: dict[str, Any] = {"patch_zyx": [8, 16, 16], "batch_size": 2, "device": "cpu"}
    options |= {"precision": "fp32", "log_every": 1, "time": f"{BUDGET}s"}
    return parse_config(
        {
            "data": {"path": str(mini_set)},
            "model": {"options": {"features": [4, 8]}},
            "train": options | train,
        }
    )


def lines_of(folder: Path, kind: str) -> list[dict[str, Any]]:
    log = (folder / "log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, log) if line["kind"] == kind]


MACHINES = {
    "as measured": lambda calls: 1.0,
    "half as fast after a third": lambda calls: 1.0 if calls < 20 else 2.0,
    "busy while it is measured": lambda calls: 4.0 if calls < 8 else 1.0,
    "idle while it is measured": lambda calls: 0.25 if calls < 8 else 1.0,
    "now fast, now slow": lambda calls: (0.5, 1.5)[calls // 7 % 2],
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_budget_holds_whatever_the_machine_does(mini_set, tmp_path, monkeypatch, name):
    machine = Machine(MACHINES[name])
    machine.install(monkeypatch)
    folder = tmp_path / "run"
    result = ctseg.train(config_of(mini_set), output=folder)
    assert 0.9 * BUDGET <= machine.now <= 1.1 * BUDGET
    # the rate goes down smoothly, and to the end
    rates = [line["lr"] for line in lines_of(folder, "step")]
    assert len(rates) == result.steps
    top = rates.index(max(rates))  # after the warm-up
    falls = [a - b for a, b in itertools.pairwise(rates[top:])]
    assert min(falls) >= 0 and max(falls) < 4 * max(rates) / result.steps
    assert rates[-1] < 0.15 * max(rates)
    decisions = lines_of(folder, "budget")
    assert decisions
    before = decisions[0]["steps_before"]
    for line in decisions:
        assert line["steps_before"] == before
        before = line["steps"]
    assert before == result.steps == checkpoint.load(folder / "last")[0].steps
    # how true the forecasts were
    (outcome,) = lines_of(folder, "outcome")
    forecasts = lines_of(folder, "forecast")
    assert [line["step"] for line in outcome["forecasts"]] == [line["step"] for line in forecasts]
    assert outcome["forecasts"][0]["seconds"] == pytest.approx(
        forecasts[0]["seconds"] / outcome["seconds"], abs=0.01
    )
    assert outcome["left_seconds"] == pytest.approx(BUDGET - machine.now, abs=0.1)
    if name == "as measured":
        assert outcome["forecasts"][0]["seconds"] == pytest.approx(1, abs=0.05)


def test_a_killed_run_makes_its_decisions_again(mini_set, tmp_path, monkeypatch):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    with monkeypatch.context() as patch:
        Machine(MACHINES["half as fast after a third"]).install(patch)
        ctseg.train(config_of(mini_set), output=alone)
    decisions = lines_of(alone, "budget")
    ends = [line["step"] for line in lines_of(alone, "epoch")]
    within = next(
        line["step"] for line in decisions if line["step"] > ends[0] and line["step"] not in ends
    )
    with monkeypatch.context() as patch:
        machine = Machine(MACHINES["half as fast after a third"])
        machine.install(patch)
        machine.dies_at = MEASURED + within
        with pytest.raises(RuntimeError, match="killed"):
            ctseg.train(config_of(mini_set), output=killed)
        state = checkpoint.load(killed / "last")[0]
        assert state.step == ends[0] < within
        assert len((killed / "log.jsonl").read_bytes()) > state.log_bytes
        written = lines_of(killed, "budget")
        assert written == decisions[: len(written)]
        assert written[-1]["step"] == within
        machine.dies_at, machine.calls = -1, MEASURED + state.step
        ctseg.train(RunConfig(), output=killed, resume=True)
    assert lines_of(killed, "budget") == decisions
    for name in ("best.safetensors", "last/state.safetensors"):
        one, two = (safetensors.torch.load_file(folder / name) for folder in (alone, killed))
        assert all(torch.equal(one[key], two[key]) for key in one)
    for kind in ("step", "epoch"):
        assert lines_of(alone, kind) == lines_of(killed, kind)


def test_what_was_decided_is_not_measured_again(mini_set, tmp_path, monkeypatch):
    """Resumed on a machine ten times slower, a run repeats its decisions up to where it was killed."""
    folder = tmp_path / "run"
    machine = Machine(MACHINES["as measured"])
    machine.install(monkeypatch)
    machine.dies_at = MEASURED + 33
    with pytest.raises(RuntimeError, match="killed"):
        ctseg.train(config_of(mini_set), output=folder)
    written = lines_of(folder, "budget")
    assert written[-1]["step"] > checkpoint.load(folder / "last")[0].step
    machine.dies_at, machine.seconds = -1, lambda calls: 10.0
    result = ctseg.train(RunConfig(), output=folder, resume=True)
    decisions = lines_of(folder, "budget")
    assert decisions[: len(written)] == written
    assert len(decisions) > len(written)
    assert result.steps < written[-1]["steps"]  # from there on it is as slow as it is


@pytest.mark.parametrize("validated", [False, True])
def test_what_slows_steps_down_slows_the_next_validation_down(monkeypatch, validated):
    now = [0.0]
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=lambda: now[0]))
    state = State(100, 100, step_seconds=1.0, validation_seconds=20.0, budget_left=100.0)
    job = SimpleNamespace(config=RunConfig(train=TrainConfig(time="100s")))
    budget = time_budget.Budget(job, state)  # type: ignore[arg-type]
    state.step, now[0] = 10, 20.0
    if validated:  # the last 24 s were a validation
        now[0] += 24.0
        budget.validated(24.0)
    line = budget.review()
    assert line is not None
    assert (line["step_seconds"], line["validation_seconds"]) == (2.0, 24.0 if validated else 40.0)
    left = 100.0 - now[0] - 3.0 - line["validation_seconds"]
    assert line["steps"] == 10 + int(left / 2.0)


def test_an_end_that_moves_leaves_the_rate_where_it_is():
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.1)
    config = TrainConfig(optimizer="sgd", lr=0.1, warmup=0)
    state = State(1000, 100, step=400)
    schedule = Schedule(optimizer, config, state.steps)
    schedule.set(state.position(400))
    here = schedule.lr
    for end in (700, 2000, 500):
        state.move_end(end)
        schedule.set(state.position(400))
        assert schedule.lr == pytest.approx(here)
        schedule.set(state.position(end - 1))
        assert 0 < schedule.lr < 0.02 * 0.1
    state.step = 450
    state.move_end(600)  # halfway through what was left of the schedule
    assert state.position(450) == pytest.approx(700)
    assert state.position(525) == pytest.approx(850)
    assert state.position(600) == pytest.approx(1000)
    untouched = State(1000, 100, step=400)
    assert [untouched.position(step) for step in (0, 400, 999)] == [0, 400, 999]


@pytest.mark.parametrize("seconds", [0.0, 3.0, 40.0, 333.3, 5000.0])
@pytest.mark.parametrize("step", [0, 7, 99, 100, 130])
def test_affordable_steps_are_the_most_that_fit(seconds, step):
    state = State(10_000, 100, step=step, validated=step // 100 * 100, budget_left=1.0)
    state.step_seconds, state.validation_seconds = 1.0, 20.0

    def cost(count: int) -> float:
        trial = State(step + count, 100, budget_left=1.0)
        validations = 0
        for trial_step in range(step + 1, trial.steps + 1):
            trial.step = trial_step
            validations += time_budget.at_epoch_end(trial)
        return count * 1.0 + max(validations, 1) * 20.0

    found = time_budget.affordable_steps(state, seconds)
    assert found == 0 or cost(found) <= seconds
    assert cost(found + 1) > seconds


def test_a_long_run_is_foretold_before_its_start_and_after_some_steps(
    mini_set, tmp_path, monkeypatch
):
    for module, name, value in ((time_budget, "MEASURED_FROM", 20), (clock, "SECOND_AT", 6)):
        monkeypatch.setattr(module, name, value)
    Machine(lambda calls: 1.0 if calls < MEASURED else 2.0).install(monkeypatch)
    ctseg.train(config_of(mini_set, time=None, steps=20, steps_per_epoch=10), output=tmp_path)
    first, second = lines_of(tmp_path, "forecast")
    validations = 2 * 2 * VALIDATION
    assert (first["step"], first["seconds"]) == (0, 20 * 1.0 + validations)
    assert (second["step"], second["seconds"]) == (6, 20 * 2.0 + validations)
    (outcome,) = lines_of(tmp_path, "outcome")
    assert outcome["seconds"] == 20 * 2.0 + validations
    assert [line["seconds"] for line in outcome["forecasts"]] == [round(22 / 42, 3), 1.0]


def test_memory_and_durations_are_told():
    assert forecast.peak_memory(torch.device("cpu")) > 2**24
    assert [forecast.in_words(s) for s in (45, 720, 12000)] == ["45 s", "12 min", "3 h 20 min"]


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_a_run_that_loses_a_core_goes_on_with_fewer_threads(mini_set, tmp_path, monkeypatch):
    allowed, before = {0, 1}, torch.get_num_threads()
    make_step = step.Stepper.__call__

    def stepped(stepper: Any, number: int) -> float:
        allowed.difference_update({1} if number == 4 else ())
        return make_step(stepper, number)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    monkeypatch.setattr(threads, "_seen", threads._Seen())
    monkeypatch.setattr(step.Stepper, "__call__", stepped)
    torch.set_num_threads(2)
    try:
        told = Told()
        config = config_of(mini_set, time=None, steps=8)
        run.train(config, output=tmp_path / "run", reporter=told)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    (line,) = lines_of(tmp_path / "run", "threads")
    assert line == {"kind": "threads", "step": 5, "threads": 1}
    assert any("from step 5 on, it computes with 1 thread." in line for line in told.lines)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_a_busy_neighbour_does_not_move_the_end(mini_set, mini_options, tmp_path):
    """A run on one core, which another process takes half of after a quarter of the budget."""
    core, folder = min(os.sched_getaffinity(0)), tmp_path / "run"
    pin = f"import os; os.sched_setaffinity(0, {{{core}}}); "
    train = [str(mini_set), "-o", str(folder), "--time", "60s", *mini_options[:-6]]
    arguments = ["ctseg", "train", *train, "--device", "cpu", "--precision", "fp32"]
    start = pin + f"import sys; sys.argv = {arguments!r}; from ctseg.cli.app import main; main()"
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", start], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    neighbour = None
    try:
        while not (folder / "log.jsonl").exists() and process.poll() is None:
            time.sleep(0.1)
        time.sleep(max(begun + 20 - time.monotonic(), 0))
        neighbour = subprocess.Popen([sys.executable, "-c", pin + "\nwhile True: pass"])
        _, errors = process.communicate(timeout=180)
        took = time.monotonic() - begun
    finally:
        process.kill()
        if neighbour is not None:
            neighbour.kill()
            neighbour.wait()
    assert process.returncode == 0, errors
    (outcome,) = lines_of(folder, "outcome")
    assert abs(outcome["left_seconds"]) <= 6
    assert took >= 54  # the budget begins when Python has loaded PyTorch
    decisions = lines_of(folder, "budget")
    assert decisions[-1]["steps"] < 0.9 * decisions[0]["steps_before"]
