"""A denoiser trained on noisy and clean pairs, from the command line to the figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.config import load_config
from ctseg.metrics.regression import mse

FAST = [
    "--patch", "8,24,24", "--batch-size", "2", "--device", "cpu", "--precision", "fp32", "--seed", "0",
    "--lr", "0.02", "--set", "model.options.features=[8, 16]", "--set", "model.options.convs_per_level=1",
    "--set", "train.steps=150", "--set", "train.steps_per_epoch=75", "--set", "augment.rotation=0",
    "--set", "augment.scale=0",
]  # fmt: skip


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def run(noisy_pairs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "denoiser"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTSEG_CACHE", str(folder.parent / "cache"))
        call(
            "train", str(noisy_pairs), "--reader", "pairs", "--option", "images=noisy/*.nii.gz",
            "--option", "labels=clean/*.nii.gz", "--set", "task.kind=regression",
            "--set", "data.folds=3", "-o", str(folder), *FAST,
        )  # fmt: skip
    return folder


def test_the_plan_keeps_the_grid_and_leaves_the_values_alone(run):
    config = load_config(run / "config.toml")
    assert config.task.kind == "regression"
    assert [label.name for label in config.task.labels] == ["value"]
    assert config.loss.name == "smooth_l1"
    kinds = [step["kind"] for step in config.preprocess.steps]
    assert "resample" not in kinds
    assert kinds[-1] == "normalise_target"
    assert config.model.options["norm"] == "none"
    assert config.augment.noise == config.augment.gamma == 0
    choices = json.loads((run / "plan.json").read_text())["choices"]
    assert choices["targets"]["value"]["std"][0] > 100  # HU
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    line = [line for line in lines if line["kind"] == "epoch"][-1]
    assert set(line["scores"]) == {"mse", "mae", "psnr"}
    assert (run / "curves.png").stat().st_size > 1000


def test_the_denoiser_beats_the_identity(run, noisy_pairs, tmp_path):
    report = json.loads((run / "validation" / "report.json").read_text())
    names = [case["case"] for case in report["cases"]]
    assert len(names) == 2
    for name in names:
        noisy, clean = (ctseg.read(noisy_pairs / k / f"{name}.nii.gz") for k in ("noisy", "clean"))
        call(
            "predict", str(noisy_pairs / "noisy" / f"{name}.nii.gz"), "-m", str(run),
            "-o", str(tmp_path), "--device", "cpu", "--precision", "fp32",
        )  # fmt: skip
        made = ctseg.read(tmp_path / f"{name}.nii.gz")
        assert made.array.dtype == np.float32
        assert made.geometry.agrees(noisy.geometry)
        gain = mse(noisy.array, clean.array) / mse(made.array, clean.array)
        assert gain > 2, gain
        stored = next(case for case in report["cases"] if case["case"] == name)
        assert stored["labels"]["value"]["mse"] == pytest.approx(
            mse(made.array, clean.array), rel=1e-4
        )
    table = json.loads(
        call("evaluate", str(tmp_path), str(noisy_pairs / "clean"), "--json",
             "--cases", ",".join(names))
    )  # fmt: skip
    assert table["means"]["psnr"] > 20
    assert set(table["means"]) == {"mse", "mae", "psnr"}


def test_the_figures_follow_the_weights_into_the_zoo(run, tmp_path):
    published = json.loads(
        call("zoo", "publish", str(run), "--tag", "quiet", "--zoo", str(tmp_path), "--licence", "CC0",
             "--json")
    )  # fmt: skip
    scores = published["card"]["metrics"]["scores"]
    assert scores["psnr"]["value"] > 20
    readme = (Path(published["folder"]) / "README.md").read_text()
    assert "| channel | MSE | MAE | PSNR dB |" in readme
    assert "-o values.nii.gz" in readme and "| Values | value |" in readme
    assert "PSNR" in call("zoo", "show", published["name"], "--zoo", str(tmp_path))
    assert "PSNR" in call("evaluate", str(run), "--resamples", "0")
