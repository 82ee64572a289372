"""`ctseg plan`: a run file that is complete, may be edited, and runs."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.config import load_config, parse_config


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_plan_is_written_edited_and_run(mini_set: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "run.toml", tmp_path / "run"
    result = run("plan", mini_set, "--device", "cpu", "-o", file, "--set", "train.steps=2")
    assert result.exit_code == 0, result.output
    assert f"Next: ctseg train {file} -o runs/NAME\n" in result.stdout  # it has a length
    config = load_config(file)
    assert config.train.patch_zyx and config.train.batch_size and config.train.lr
    assert config.augment.complete and config.preprocess.steps and config.task
    edited = (
        file.read_text().replace("    24,\n    48,\n", "    4,\n    8,\n").replace("    96,\n", "")
    )
    assert edited != file.read_text()
    file.write_text(edited.replace(f"lr = {config.train.lr}", "lr = 0.001"))
    result = run("train", file, "-o", folder, "--patch", "8,16,16", "--set", "model.options.strides_zyx=[]",
                 "--set", "model.options.kernels_zyx=[]")  # fmt: skip
    assert result.exit_code == 0, result.output
    again = load_config(folder / "config.toml")
    assert (again.train.lr, again.train.steps) == (0.001, 2)
    assert again.train.batch_size == config.train.batch_size
    assert again.model.options["features"] == [4, 8]
    assert "exists already" in run("plan", mini_set, "-o", file).output


def test_a_plan_without_a_length_asks_for_one(mini_set: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    result = run("plan", mini_set, "--device", "cpu", "-o", file)
    assert result.exit_code == 0, result.output
    assert f"Next: ctseg train {file} -o runs/NAME --time 30m\n" in result.stdout


def test_a_plan_with_a_first_stage(mini_set: Path) -> None:
    settings = ("train.patch_zyx=[4, 8, 8]", "first_stage.use=on", "model.options.features=[4, 8]")
    options = [part for setting in settings for part in ("--set", setting)]
    result = run("plan", mini_set, "--device", "cpu", *options)
    assert result.exit_code == 0, result.output
    section = result.stdout.partition("[first_stage]\n")[2]
    assert section.startswith("# as asked; a patch sees 4.8%")  # 4 x 8 x 8 of 12 x 20 x 22
    config = parse_config(tomllib.loads(result.stdout))
    assert config.first_stage.use == "on" and config.first_stage.patch_zyx


def test_a_plan_takes_over_the_model_that_training_begins_with(
    mini_set: Path, tmp_path: Path
) -> None:
    first, file, folder = tmp_path / "first", tmp_path / "run.toml", tmp_path / "run"
    short = ("--steps", "1", "--device", "cpu")
    small = ("--patch", "8,16,8", "--set", "model.options.features=[4, 8]")
    assert run("train", mini_set, "-o", first, *short, *small).exit_code == 0
    result = run("plan", mini_set, "--device", "cpu", "-o", file, "--set", f"model.init={first}")
    assert result.exit_code == 0, result.output
    assert "was trained on" in result.output
    config = load_config(file)
    assert config.model.options["features"] == [4, 8]
    assert config.train.patch_zyx == (8, 16, 8)
    assert run("train", file, "-o", folder, *short).exit_code == 0
    document = json.loads((folder / "plan.json").read_text())
    assert document["initial"]["remade"] == []
    assert load_config(folder / "config.toml").preprocess == config.preprocess


def test_a_plan_for_another_card(mini_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = run("plan", mini_set, "--device", "cuda")
    assert result.exit_code == 2
    assert "--memory 24G" in result.output
    result = run("plan", mini_set, "--device", "cuda", "--memory", "24G", "--time", "2h")
    assert result.exit_code == 0, result.output
    assert "of 24 GB of memory" in result.stdout.splitlines()[1]
    config = parse_config(tomllib.loads(result.stdout))
    assert (config.train.device, config.train.memory) == ("cuda", "24G")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--memory", "much"), "no amount of memory"),
        (("--set", "train.preset=best"), "fast"),
        (("--time", "soon"), "no duration"),
        (("--device", "gpu"), "no device"),
    ],
)
def test_mistakes(mini_set: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run("plan", mini_set, *arguments)
    assert result.exit_code != 0
    assert said in result.output
