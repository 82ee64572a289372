"""Runs: what they write, and that one killed and resumed equals one left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.config import RunConfig, load_config, parse_config
from ctseg.engine.model.build import build
from ctseg.engine.model.runtime import choose
from ctseg.engine.model.weights import read_weights
from ctseg.engine.training import checkpoint, planned
from ctseg.engine.training.loop import finished
from ctseg.engine.training.optim import SCHEDULES, Schedule
from ctseg.engine.training.run_log import RunLog
from ctseg.engine.training.step import Stepper, loss_target
from ctseg.engine.training.time_budget import at_epoch_end
from ctseg.engine.training.validate import validation_cases, validation_model
from ctseg.errors import BadInput, CorruptWeights, DiskFull
from tests.test_markup import Seen

LONG = ["--steps", "40", "--set", "train.checkpoint_every=0", "--set", "train.ema=0.9"]
LONG += ["--set", "train.log_every=3"]


def command(mini_set: Path, folder: Path, options: list[str]) -> list[str]:
    return [
        sys.executable, "-m", "ctseg", "train", str(mini_set), "-o", str(folder), *LONG, *options,
        "--set", "model.options.dropout=0.2",
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a resume point at or after a step is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        file = folder / "last" / "state.json"
        try:
            if json.loads(file.read_text())["state"]["step"] >= step:
                return
        except (OSError, ValueError):
            pass
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.01)
    raise AssertionError("no resume point in time")


def test_a_run_folder_holds_what_it_should(mini_run: Path):
    names = {path.name for path in mini_run.iterdir()}
    assert {
        "config.toml", "plan.json", "log.jsonl", "curves.png", "best.safetensors", "last",
        "validation",
    } <= names  # fmt: skip
    config = load_config(mini_run / "config.toml")
    assert config.task is not None
    assert config.preprocess.steps
    assert config.train.patch_zyx == (8, 16, 16)
    lines = [json.loads(line) for line in (mini_run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "epoch"] == [4, 8, 12]
    report = json.loads((mini_run / "validation" / "report.json").read_text())
    tensors, card = read_weights(mini_run / "best.safetensors")
    assert card.metrics.mean_dice == report["mean_dice"]
    assert card.licence == "CC0"
    assert [label.name for label in card.task.labels] == ["background", "box", "brick"]
    assert all(value.dtype == torch.float32 for value in tensors.values())
    plan = json.loads((mini_run / "plan.json").read_text())
    assert all(choice["reason"] for choice in plan["choices"].values())
    assert not [p for p in mini_run.rglob("*") if p.suffix in (".pt", ".pkl", ".pth")]


def test_a_run_has_a_report_of_everything(mini_run: Path) -> None:
    text = (mini_run / "report.html").read_text(encoding="utf-8")
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        "Run", "Curves", "Best validation", "Worst, median and best scan", "Confusion", "Validation cases", "Plan",
        "Fingerprint", "Environment", "Configuration",
    ]  # fmt: skip
    seen = Seen(text).text
    plan = json.loads((mini_run / "plan.json").read_text())
    for choice in plan["choices"].values():
        assert choice["reason"] in seen
    assert "finished, 12 steps" in text and "3</td>" in text
    assert plan["environment"]["torch"] in text and plan["runtime"] in seen
    curves = text.partition("<h2>Curves")[2].partition("</section>")[0]
    assert re.findall("<h3>(.*?)</h3>", curves) == [
        "Dice, validation", "Loss, training", "Learning rate", "Throughput, patches a second",
    ]  # fmt: skip
    shown = {path.stem for path in (mini_run / "validation").glob("*.png")}
    assert shown in ({"worst", "median", "best"}, {"worst", "best"}, {"best"})
    assert text.count("data:image/png") == 3 * len(shown)
    lines = [json.loads(line) for line in (mini_run / "log.jsonl").read_text().splitlines()]
    for line in lines[:-1]:
        assert 0 < line["validation_seconds"] <= line["seconds"]
    assert lines[-1]["kind"] == "outcome"


@pytest.mark.slow
def test_killed_and_resumed_equals_left_alone(mini_set, mini_options, tmp_path):
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    subprocess.run(
        command(mini_set, alone, mini_options), check=True, capture_output=True, env=environment()
    )
    for kill_at in (5, 17):  # within an epoch; resumed and killed again
        # with workers, which read ahead of a kill
        arguments = [*command(mini_set, killed, mini_options), "--set", "train.workers=2"]
        if killed.exists():
            arguments = [sys.executable, "-m", "ctseg", "train", "--resume", "-o", str(killed)]
        process = start(arguments)
        wait_for_step(killed, kill_at, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()  # also closes the pipe
    done = subprocess.run(
        [sys.executable, "-m", "ctseg", "train", "--resume", "-o", str(killed)],
        check=True, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert "Resuming at step" in done.stderr
    for name in ("best.safetensors", "last/state.safetensors"):
        one = safetensors.torch.load_file(alone / name)
        two = safetensors.torch.load_file(killed / name)
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key]), key
    logs = [
        [
            line
            for line in map(json.loads, (run / "log.jsonl").read_text().splitlines())
            if line["kind"] != "outcome"
        ]
        for run in (alone, killed)
    ]
    for log in logs:
        for line in log:
            for name in ("seconds", "validation_seconds"):
                line.pop(name, None)
    assert logs[0] == logs[1]


def test_losses_are_logged_between_validations(mini_set, mini_options, tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", str(mini_set), "-o", str(folder), "--steps", "7", *mini_options]
    more = ["--set", "train.log_every=2", "--set", "train.val_overlap=[0.25, 0.0, 0.5]"]
    result = CliRunner().invoke(app, [*arguments, *more, "--set", "train.steps_per_epoch=100"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("step", 2), ("step", 4), ("step", 6), ("epoch", 7), ("outcome", 7),
    ]  # fmt: skip
    means = [line["loss"] for line in lines[:3]]
    state, _, _ = checkpoint.load(folder / "last")
    assert (2 * sum(means) + state.log_sum) / 7 == pytest.approx(lines[3]["loss"])
    assert lines[0]["lr"] > 0
    assert load_config(folder / "config.toml").train.val_overlap == (0.25, 0.0, 0.5)


def test_validations_take_their_own_overlap(mini_run):
    config = parse_config({"train": {"val_overlap": [0.1, 0.2, 0.3]}})
    _, card = read_weights(mini_run / "best.safetensors")
    net = build(card)
    job = SimpleNamespace(card=card, runtime=choose("cpu", "fp32"), config=config)
    assert validation_model(job, net).settings.overlap == (0.1, 0.2, 0.3)
    job.config = RunConfig()
    assert validation_model(job, net).settings.overlap == card.predict.overlap == 0.5


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_can_be_resumed(mini_set, mini_options, tmp_path):
    folder = tmp_path / "run"
    process = start(command(mini_set, folder, mini_options))
    wait_for_step(folder, 3, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert checkpoint.exists(folder / "last")
    again = subprocess.run(
        [sys.executable, "-m", "ctseg", "train", "--resume", "-o", str(folder)],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert again.returncode == 0, again.stderr


def test_two_signals_within_a_step_leave_the_last_resume_point(
    mini_set, mini_options, tmp_path, monkeypatch
):
    """The second one ends the step in its midst, when its weights are no longer those of the step before."""
    alone, stopped, kept = tmp_path / "alone", tmp_path / "stopped", tmp_path / "kept"
    options = ["--steps", "6", "--set", "train.checkpoint_every=0", *mini_options]
    done = CliRunner().invoke(app, ["train", str(mini_set), "-o", str(alone), *options])
    assert done.exit_code == 0, done.output
    whole = Stepper.__call__

    def twice(self, step):
        value = whole(self, step)
        if step == 2:
            shutil.copytree(stopped / "last", kept)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
        return value

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", twice)
        result = CliRunner().invoke(app, ["train", str(mini_set), "-o", str(stopped), *options])
    assert result.exit_code == 143, result.output
    assert "Stopped at once; the run resumes from its last resume point." in result.stderr
    assert checkpoint.load(stopped / "last")[0].step == 2
    for name in ("state.json", "state.safetensors"):
        assert (stopped / "last" / name).read_bytes() == (kept / name).read_bytes()
    again = CliRunner().invoke(app, ["train", "--resume", "-o", str(stopped)])
    assert again.exit_code == 0, again.output
    for name in ("best.safetensors", "last/state.safetensors"):
        one = safetensors.torch.load_file(alone / name)
        two = safetensors.torch.load_file(stopped / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_a_time_budget_fixes_the_steps(mini_set, mini_options, tmp_path):
    folder = tmp_path / "run"
    arguments = ["train", str(mini_set), "-o", str(folder), "--time", "4s", *mini_options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    state, _, _ = checkpoint.load(folder / "last")
    assert state.step == state.steps >= 1
    assert "A step takes" in result.stderr


def test_patience_ends_a_run(mini_set, mini_options, tmp_path):
    folder = tmp_path / "run"
    arguments = [
        "train", str(mini_set), "-o", str(folder), "--epochs", "30", *mini_options,
        "--patience", "1", "--set", "train.steps_per_epoch=1", "--lr", "1e-9",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    state, _, _ = checkpoint.load(folder / "last")
    assert state.step < 30
    assert state.without_gain == 1


def test_json_result(mini_set, mini_options, tmp_path):
    arguments = [
        "train", str(mini_set), "-o", str(tmp_path / "run"), "--steps", "2", "--json",
        *mini_options, "--set", "augment.preset=none", "--loss", "dice",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 2


def test_the_network_learns(mini_set, tmp_path):
    config = parse_config(
        {
            "data": {"path": str(mini_set)},
            "model": {"options": {"features": [8, 16]}},
            "train": {
                "steps": 60, "steps_per_epoch": 60, "patch_zyx": [8, 16, 16], "batch_size": 4,
                "lr": 0.01, "device": "cpu", "precision": "fp32",
            },
        }
    )  # fmt: skip
    result = ctseg.train(config, output=tmp_path / "run")
    assert result.mean_dice is not None
    assert result.mean_dice > 0.8


def test_epochs_end_where_they_should():
    state = checkpoint.State(steps=10, steps_per_epoch=4)
    ends = [s for s in range(1, 11) if at_epoch_end(checkpoint.State(10, 4, step=s))]
    assert ends == [4, 8, 10]
    assert not finished(state, None)
    assert not finished(checkpoint.State(10, 4, step=10, validated=8), None)
    assert finished(checkpoint.State(10, 4, step=10, validated=10), None)
    assert finished(checkpoint.State(10, 4, step=4, validated=4, without_gain=2), 2)


def test_a_spoilt_resume_point_is_named(tmp_path):
    folder = tmp_path / "last"
    folder.mkdir()
    (folder / "state.json").write_text("{")
    with pytest.raises(CorruptWeights, match="resume point"):
        checkpoint.load(folder)


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    net = torch.nn.Conv3d(1, 1, 1)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 1, 1, 1, 1)).sum().backward()
    optimizer.step()
    return net, optimizer


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_changed_byte_of_a_resume_point_is_found(tmp_path, name):
    net, optimizer = trained()
    folder = tmp_path / "last"
    checkpoint.save(folder, checkpoint.State(7, 1, step=2), {"model": net.state_dict()}, optimizer)
    file = folder / name
    content = file.read_bytes()
    if name == "state.json":
        file.write_bytes(content.replace(b'"steps": 7', b'"steps": 8'))
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert file.read_bytes() != content
    with pytest.raises(CorruptWeights, match="checksum"):
        checkpoint.load(folder)
    file.write_bytes(content)
    assert checkpoint.load(folder)[0].steps == 7


def test_a_resume_point_of_another_optimizer_is_refused(tmp_path):
    net, optimizer = trained()
    folder = tmp_path / "last"
    checkpoint.save(folder, checkpoint.State(7, 1, step=2), {"model": net.state_dict()}, optimizer)
    other = torch.optim.SGD([{"params": [net.weight]}, {"params": [net.bias]}])
    with pytest.raises(CorruptWeights, match="another optimizer"):
        checkpoint.resume(folder, net, None, other)
    again, fresh = trained()
    assert checkpoint.resume(folder, again, None, fresh).step == 2
    assert torch.equal(again.weight, net.weight)


def test_a_resume_point_left_under_its_old_name_is_found(tmp_path):
    net = torch.nn.Conv3d(1, 1, 1)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 1, 1, 1, 1)).sum().backward()
    optimizer.step()
    folder = tmp_path / "last"
    checkpoint.save(folder, checkpoint.State(3, 1, step=2), {"model": net.state_dict()}, optimizer)
    folder.rename(tmp_path / "last.old")
    assert checkpoint.exists(folder)
    state, parts, plain = checkpoint.load(folder)
    assert state.step == 2
    other = torch.optim.AdamW(net.parameters())
    checkpoint.restore_optimizer(other, parts["optimizer"], plain)
    expected, found = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert set(found) == set(expected)
    for index, one in expected.items():
        two = found[index]
        for name in one:
            assert torch.equal(torch.as_tensor(one[name]), torch.as_tensor(two[name]))


def test_targets_and_masks():
    classes = torch.tensor([[[[[0, 1, -1]]]]])
    target, mask = loss_target(classes, "classes")
    assert target.flatten().tolist() == [0, 1, 0]
    assert mask is not None
    assert mask.flatten().tolist() == [True, True, False]
    target, mask = loss_target(torch.ones(1, 2, 1, 1, 3), "channels")
    assert mask is None
    assert target.dtype == torch.float32


def test_a_run_without_data_is_refused():
    with pytest.raises(BadInput, match="No data set"):
        ctseg.train(RunConfig())


def test_a_resume_point_of_another_network_is_refused(mini_run, tmp_path):
    """As after an update of the package that provides it."""
    run = shutil.copytree(mini_run, tmp_path / "run")
    text = (run / "config.toml").read_text()
    other = re.sub(r"(features = \[\s*4,\s*)8,", r"\g<1>12,", text)
    assert other != text
    (run / "config.toml").write_text(other)
    result = CliRunner().invoke(app, ["train", "--resume", "-o", str(run)])
    assert result.exit_code == 2
    assert "do not fit the network" in result.stderr


def test_a_run_whose_cases_have_changed_is_not_resumed(mini_set, mini_run, tmp_path):
    """With one case less, others train and validate, and some would do both."""
    data = Path(shutil.copytree(mini_set, tmp_path / "Mini"))
    run = Path(shutil.copytree(mini_run, tmp_path / "run"))
    text = (run / "config.toml").read_text()
    assert str(mini_set.resolve()) in text
    (run / "config.toml").write_text(text.replace(str(mini_set.resolve()), str(data)))
    plan = json.loads((run / "plan.json").read_text())
    assert [case.id for case in validation_cases(run)[1]] == plan["cases"]["val"]
    document = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(
        json.dumps(document | {"training": document["training"][1:]})
    )
    result = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert result.exit_code == 2
    assert "data set have changed since the run" in " ".join(result.stderr.split())
    with pytest.raises(BadInput, match="have changed since the run"):
        validation_cases(run)
    del plan["cases"]  # as of an earlier version
    (run / "plan.json").write_text(json.dumps(plan))
    assert len(validation_cases(run)[1]) in (1, 2)
    result = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_too_little_memory_says_what_to_make_smaller(
    mini_set, mini_options, tmp_path, monkeypatch, error
):
    def step(self, number):
        raise error

    monkeypatch.setattr(Stepper, "__call__", step)
    arguments = ["train", str(mini_set), "-o", str(tmp_path / "run"), "--steps", "2", *mini_options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "does not suffice for 2 patches of 8 x 16 x 16 voxels" in result.stderr
    assert "--batch-size" in result.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_ends_a_run(mini_set, mini_options, tmp_path, monkeypatch, value):
    def loss(logits, target, *, weight=None, mask=None):
        return logits.sum() * 0 + value

    monkeypatch.setattr("ctseg.engine.training.loop.create_loss", lambda *_, **__: loss)
    arguments = ["train", str(mini_set), "-o", str(tmp_path / "run"), "--steps", "2", *mini_options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"The loss became {value} at step 0" in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_says_so(tmp_path):
    log = RunLog(tmp_path)
    log.path.symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="disk is full"):
        log.write("epoch", step=1)
    log.close()


def rates(schedule, steps, warmup=0.0):
    """The learning rate at each step, of a base rate of 1."""
    net = torch.nn.Conv3d(1, 1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    train = RunConfig().train.model_copy(update={"schedule": schedule, "warmup": warmup, "lr": 1.0})
    made, found = Schedule(optimizer, train, steps), []
    for step in range(steps):
        made.set(step)
        found.append(made.lr)
    return found


@pytest.mark.parametrize("steps", [40, 1000])
def test_schedules_are_those_of_torch_over_the_whole_run(steps):
    parts = torch.optim.lr_scheduler
    expected = {
        "poly": lambda o: parts.PolynomialLR(o, steps, 0.9),
        "cosine": lambda o: parts.CosineAnnealingLR(o, steps),
        "step": lambda o: parts.StepLR(o, steps // 4, 0.1),
        # timm's milestones come a step early
        "multistep": lambda o: parts.MultiStepLR(o, [steps // 2 - 1, 3 * steps // 4 - 1], 0.1),
        "constant": lambda o: parts.ConstantLR(o, 1.0),
    }
    assert {*expected, "tanh"} == set(SCHEDULES)
    for name, of in expected.items():
        optimizer = torch.optim.SGD(torch.nn.Conv3d(1, 1, 1).parameters(), lr=1.0)
        schedule, told = of(optimizer), []
        for _ in range(steps):
            told.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert rates(name, steps) == pytest.approx(told, abs=1e-6), name
    assert rates("tanh", steps)[0] > 0.95 and rates("tanh", steps)[-1] < 0.05


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_what_follows_a_warm_up_comes_down_all_the_way(schedule):
    """After the warm-up the rates are those of a shorter run without one."""
    found = rates(schedule, 100, 0.2)
    assert found[:20] == sorted(found[:20])
    assert found[20:] == pytest.approx(rates(schedule, 80))


def test_tensorboard_shows_nothing_of_what_a_resumed_run_does_again(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = RunLog(tmp_path)
    for step in (4, 8, 12):
        first.write("epoch", step=step, loss=1.0)
    first.close()
    time.sleep(1.1)  # its files are named by the second
    second = RunLog(tmp_path, first.size, 8)
    second.write("epoch", step=12, loss=2.0)
    second.close()
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [
        (4, 1),
        (8, 1),
        (12, 2),
    ]


def test_a_resumed_run_computes_as_it_began(mini_run: Path, tmp_path: Path, monkeypatch) -> None:
    """Though the default, or a new measurement, would be another runtime."""
    plan = json.loads((mini_run / "plan.json").read_text())
    choice = plan["choices"]["runtime"]["value"]
    assert (choice["precision"], choice["channels_last"], choice["exact"]) == ("fp32", False, True)
    folder = Path(shutil.copytree(mini_run, tmp_path / "run"))
    choice["channels_last"] = True
    (folder / "plan.json").write_text(json.dumps(plan))

    def never(*_arguments: object, **_named: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(planned, "choose_measured", never)
    arguments = ["train", "--resume", "--extend", "--steps", "13", "-o", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "cpu, fp32, channels-last (as the run began)" in " ".join(result.output.split())
