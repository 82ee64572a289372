"""`torchrun -m ctseg train`: several processes train what one would, and go on where they were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ctseg.cli.train import configure
from ctseg.engine.training.checkpoint import load
from ctseg.engine.training.processes import Processes, joined, restarted, session
from ctseg.engine.training.run import train
from ctseg.errors import BadInput, RunFailed
from ctseg.machine import process_rank

OPTIONS = [
    "--set", "model.options.features=[4, 8]", "--patch", "8,16,16", "--batch-size", "4", "--steps", "50",
    "--set", "train.steps_per_epoch=25", "--set", "train.log_every=1", "--loss", "dice_ce",
    "--set", "loss.options={batch=true}", "--device", "cpu", "--precision", "fp32",
]  # fmt: skip


def command(count: int, *arguments: object, more: tuple[str, ...] = ()) -> list[str]:
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
        *more,
    ]
    return [
        sys.executable, *(launcher if count > 1 else []), "-m", "ctseg", "train", *map(str, arguments),
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def trained(count: int, *arguments: object, more: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        command(count, *arguments, more=more), env=environment(), capture_output=True, text=True, timeout=600
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    log = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in log if line["kind"] == kind]


def same_weights(one: Path, two: Path) -> bool:
    for name in ("best.safetensors", "last/state.safetensors"):
        first, second = (safetensors.torch.load_file(folder / name) for folder in (one, two))
        if first.keys() != second.keys():
            return False
        if not all(torch.equal(first[key], second[key]) for key in first):
            return False
    return True


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until the log tells of a step."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        log = folder / "log.jsonl"
        if log.is_file() and log.read_text().count('"kind": "step"') >= step:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("no such step in time")


@pytest.fixture(scope="module")
def two(mini_set, tmp_path_factory) -> Path:
    """A run of two processes, left alone."""
    folder = tmp_path_factory.mktemp("two") / "run"
    output = trained(2, mini_set, "-o", folder, *OPTIONS)
    assert output.count("Best validation") == 1
    return folder


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(mini_set, tmp_path, two):
    trained(1, mini_set, "-o", tmp_path / "one", *OPTIONS)
    one, both = (lines(folder, "step") for folder in (tmp_path / "one", two))
    assert [line["step"] for line in one] == [line["step"] for line in both] == list(range(1, 51))
    worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, both, strict=True))
    assert worst < 1e-4
    ends = [lines(folder, "epoch") for folder in (tmp_path / "one", two)]
    for a, b in zip(*ends, strict=True):
        assert a["mean_dice"] == pytest.approx(b["mean_dice"], abs=0.01)
    reports = [
        json.loads((f / "validation" / "report.json").read_text()) for f in (tmp_path / "one", two)
    ]
    assert [case["case"] for case in reports[0]["cases"]] == [
        case["case"] for case in reports[1]["cases"]
    ]
    pictures = [{p.name for p in (f / "validation").glob("*.png")} for f in (tmp_path / "one", two)]
    assert pictures[0] == pictures[1] != set()
    assert load(two / "last")[0].processes == 2


@pytest.mark.slow
def test_killed_and_resumed_equals_left_alone(mini_set, tmp_path, two):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(2, mini_set, "-o", folder, *OPTIONS, "--set", "train.checkpoint_every=0"), env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for_step(folder, 31, process)
    os.killpg(process.pid, signal.SIGKILL)  # torchrun and its processes at once
    process.communicate()
    trained(2, "--resume", folder)
    assert same_weights(two, folder)
    assert lines(two, "step") == lines(folder, "step")


@pytest.mark.slow
def test_torchrun_restarts_where_the_run_was(mini_set, tmp_path, two):
    """One process dies; torchrun starts both again, and they resume."""
    folder = tmp_path / "run"
    arguments = [mini_set, "-o", folder, *OPTIONS, "--set", "train.checkpoint_every=0"]
    process = subprocess.Popen(
        command(2, *arguments, more=("--max-restarts", "2")), env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_step(folder, 20, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {pid: rank for pid in children if (rank := rank_of(pid)) is not None}
    os.kill(int(next(pid for pid, rank in ranks.items() if rank == "1")), signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "Resuming at step" in errors
    assert same_weights(two, folder)


def test_a_restart_does_not_go_on_with_the_run_of_another_call(mini_set, tmp_path, monkeypatch):
    """A call that was refused, since its folder holds a run, is started again by torchrun."""
    options = {"train.steps": 2, "train.device": "cpu"}
    fixed = ["model.options.features=[4, 8]", "train.patch_zyx=[8, 16, 16]"]
    folder = tmp_path / "run"
    train(configure(mini_set, options, fixed), output=folder)
    before = (folder / "config.toml").read_bytes()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(BadInput, match="holds a run"):
        train(configure(mini_set, options | {"train.lr": 0.5}, fixed), output=folder)
    assert (folder / "config.toml").read_bytes() == before


def rank_of(pid: str) -> str | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((v[5:].decode() for v in variables if v.startswith(b"RANK=")), None)


@pytest.mark.slow
def test_sigterm_saves_and_ends_all(mini_set, tmp_path, two):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(2, mini_set, "-o", folder, *OPTIONS), env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_step(folder, 5, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "Ended by SIGTERM" in errors
    assert load(folder / "last")[0].step >= 5
    trained(2, "--resume", folder)
    assert same_weights(two, folder)


@pytest.mark.slow
def test_a_time_budget_and_more_processes_than_cases(mini_set, tmp_path):
    folder = tmp_path / "run"
    options = [*OPTIONS[:6], *OPTIONS[8:10], *OPTIONS[-4:], "--set", "data.val=['mini_0']"]
    output = trained(2, mini_set, "-o", folder, "--time", "60s", *options)
    assert "Forecast" in output
    (outcome,) = lines(folder, "outcome")
    assert lines(folder, "budget") or outcome["seconds"] < 4  # else reading the data took the time
    assert outcome["step"] == load(folder / "last")[0].steps


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(mini_set, tmp_path):
    folder = tmp_path / "run"
    options = [*OPTIONS, "--batch-size", "3"]
    done = subprocess.run(
        command(2, mini_set, "-o", folder, *options), env=environment(), capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 1  # torchrun's
    assert "cannot be shared by 2 processes" in done.stderr and "--batch-size 4" in done.stderr
    assert not folder.exists()


def test_one_process_shares_with_nobody(monkeypatch):
    one = Processes()
    assert one.leads and one.share(3) == 3 and one.own([1, 2]) == [1, 2]
    assert one.largest(4, 0) == [4, 0] and one.from_first(0.5) == [0.5]
    value = torch.ones(())
    assert one.average([], value) is value
    assert one.gathered("x", 1, lambda: None) == [1]
    assert one.asked(15) == 15 and one.asked(None) is None
    one.size = 4
    with pytest.raises(BadInput, match=r"6 patches cannot be shared by 4 [^-]*--batch-size 8"):
        one.share(6)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert session() is None
    for name in ("job7", "none"):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
        own = session()
        assert not restarted(own)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
        assert restarted(own) and not restarted("job6") and not restarted(None)
    for size, rank, expected in (("", "", 0), ("1", "3", 0), ("4", "3", 3)):
        monkeypatch.setenv("WORLD_SIZE", size)
        monkeypatch.setenv("RANK", rank)
        assert process_rank() == expected


def test_a_device_without_connections_is_refused():
    team: Any = object()
    with (
        pytest.raises(RunFailed, match="cannot train together on mps"),
        joined(team, torch.device("mps")),
    ):
        pass
