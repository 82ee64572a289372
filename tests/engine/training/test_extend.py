"""A run that gets a new end, and signals that end one with a resume point."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.config import RunConfig, TrainConfig, load_config, with_length
from ctseg.engine.training import checkpoint, time_budget
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.job import Interrupt, Silent
from ctseg.engine.training.optim import Schedule
from ctseg.engine.training.processes import Processes
from ctseg.errors import BadInput, ConfigError, Terminated


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def finished(mini_run: Path, tmp_path: Path) -> Path:
    """A run of 12 steps in epochs of 4."""
    return Path(shutil.copytree(mini_run, tmp_path / "run"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_finished_run_is_extended(finished, mini_set, mini_options):
    result = run("--resume", "--extend", "--steps", 20, "-o", finished)
    assert result.exit_code == 0, result.output
    assert "Extended from 12 to 20 steps" in result.output
    log = lines(finished)
    assert [line["step"] for line in log if line["kind"] == "epoch"] == [4, 8, 12, 16, 20]
    (note,) = [line for line in log if line["kind"] == "extended"]
    assert note == {"kind": "extended", "step": 12, "steps_before": 12, "steps": 20}
    config = load_config(finished / "config.toml")
    assert (config.train.steps, config.train.epochs, config.train.time) == (20, None, None)
    # the rate is that of a run of 20 steps: lr * (1 - step / 20) ** 0.9, no step of which warms up
    assert int(config.train.warmup * 20) == 0
    for line in log:
        if line["kind"] == "epoch" and line["step"] > 12:
            rate = config.train.lr * (1 - (line["step"] - 1) / 20) ** 0.9
            assert line["lr"] == pytest.approx(rate)
    assert checkpoint.load(finished / "last")[0].steps == 20
    again = run("--resume", "-o", finished)
    assert again.exit_code == 0, again.output
    assert "Resuming at step 20 of 20" in again.output


def test_extended_and_interrupted_equals_extended_at_once(finished, tmp_path, monkeypatch):
    at_once = Path(shutil.copytree(finished, tmp_path / "at once"))
    assert run("--resume", "--extend", "--epochs", 5, "-o", at_once).exit_code == 0
    largest, left = Processes.largest, [2]

    def signalled(self: Processes, *values: int) -> list[int]:
        found = largest(self, *values)
        if len(values) == 2:  # a signal, and whether time is due
            left[0] -= 1
            if not left[0]:  # step 14 has agreed to go on
                signal.raise_signal(signal.SIGUSR1)
        return found

    monkeypatch.setattr(Processes, "largest", signalled)
    ended = run("--resume", "--extend", "--epochs", 5, "-o", finished)
    assert ended.exit_code == 128 + signal.SIGUSR1
    monkeypatch.undo()
    assert checkpoint.load(finished / "last")[0].step == 15
    assert run("--resume", "-o", finished).exit_code == 0
    one, two = (
        safetensors.torch.load_file(folder / "last" / "state.safetensors")
        for folder in (at_once, finished)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_end_lies_beyond_what_is_done(finished):
    before = (finished / "config.toml").read_bytes()
    result = run("--resume", "--extend", "--steps", 12, "-o", finished)
    assert result.exit_code == 2
    assert "has done 12 steps" in result.output
    assert (finished / "config.toml").read_bytes() == before
    assert checkpoint.load(finished / "last")[0].steps == 12


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resume", "--steps", "20"], "--extend"),
        (["--resume", "--extend"], "one of steps, epochs and time, not none"),
        (["--resume", "--extend", "--steps", "20", "--epochs", "3"], "not steps, epochs"),
        (["--resume", "--extend", "--steps", "20", "--lr", "0.1"], "train.lr cannot be changed"),
    ],
)
def test_bad_usage(finished, arguments, says):
    result = run(*arguments, "-o", finished)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())


def test_a_run_is_resumed_to_be_extended(mini_set, tmp_path):
    result = run(mini_set, "--extend", "--steps", "20", "-o", tmp_path / "new")
    assert result.exit_code == 2
    assert "--resume" in result.output
    with pytest.raises(ConfigError):
        with_length(RunConfig(), {"steps": 0})


def test_time_counts_from_now_and_patience_anew(monkeypatch):
    monkeypatch.setattr(time_budget, "measure", lambda *_: (1.0, 0.0))
    monkeypatch.setattr(time_budget.time, "monotonic", lambda: 0.0)
    train = TrainConfig(time="1000s")
    job: Any = SimpleNamespace(
        config=SimpleNamespace(train=train),
        deadline=1000.0,
        reporter=Silent(),
        folder=Path("run"),
        processes=Processes(),
    )
    state, nothing = State(300, 10, step=300, validated=300, without_gain=4), SimpleNamespace()
    time_budget.extend_steps(job, state, torch.nn.Identity(), nothing, nothing)  # type: ignore[arg-type]
    assert state.steps == 300 + 970
    assert state.without_gain == 0
    assert state.steps_per_epoch == -(-970 // 40)
    job = SimpleNamespace(
        config=SimpleNamespace(train=TrainConfig(steps=100)), deadline=None, folder=Path("run")
    )
    with pytest.raises(BadInput, match="has done 300 steps"):
        time_budget.extend_steps(job, state, torch.nn.Identity(), nothing, nothing)  # type: ignore[arg-type]


def test_the_rate_of_an_extended_run_is_that_of_a_long_one():
    net = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = Schedule(optimizer, TrainConfig(optimizer="sgd", lr=0.1, warmup=0), 900)
    schedule.set(600)
    assert schedule.lr == pytest.approx(0.1 * (1 - 600 / 900) ** 0.9)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves_and_ends(mini_set, mini_options, tmp_path, name):
    folder, number = tmp_path / "run", getattr(signal, name)
    arguments = [
        sys.executable, "-m", "ctseg", "train", str(mini_set), "-o", str(folder), "--steps", "100000", *mini_options,
        "--set", "train.checkpoint_every=0",
    ]  # fmt: skip
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup the tests ignore SIGHUP
    )  # fmt: skip
    try:
        log = folder / "log.jsonl"
        while process.poll() is None and not (log.is_file() and '"epoch"' in log.read_text()):
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 128 + number, errors
    assert f"Ended by {name}." in errors
    assert "Traceback" not in errors
    assert checkpoint.load(folder / "last")[0].step >= 4


def test_a_second_signal_is_not_held_back_and_nohup_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert interrupt.asked is None
            signal.raise_signal(signal.SIGUSR1)
            with pytest.raises(Terminated) as ended:
                interrupt.check(interrupt.asked)
            assert ended.value.exit_code == 128 + signal.SIGUSR1
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGINT, interrupted)
