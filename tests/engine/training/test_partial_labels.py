"""Training on cases in which not every label was drawn, and on several data sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.config import load_config
from ctseg.data.loading import Loader
from ctseg.engine.model.weights import read_card
from ctseg.metrics.report import Report
from ctseg.volume.io import read


def ctseg(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="session")
def halves(mini_set: Path, tmp_path_factory: Any) -> tuple[Path, Path]:
    """The mini set as two of four cases each: in one only boxes were drawn, in the other only bricks, valued 7."""
    import dataclasses

    import ctseg as package

    folders = []
    for number, (name, old, new) in enumerate((("box", 1, 1), ("brick", 2, 7))):
        folder = Path(shutil.copytree(mini_set, tmp_path_factory.mktemp("halves") / name))
        content = json.loads((folder / "dataset.json").read_text())
        content["training"] = content["training"][4 * number : 4 * number + 4]
        content |= {"name": name, "labels": {"0": "background", str(new): name}}
        (folder / "dataset.json").write_text(json.dumps(content))
        for file in sorted((folder / "labelsTr").iterdir()):
            volume = package.read(file)
            array = np.where(volume.array == old, new, 0).astype(np.uint8)
            package.write(dataclasses.replace(volume, array=array), file)
        folders.append(folder)
    return folders[0], folders[1]


@pytest.fixture(scope="session")
def joined_run(halves: Any, mini_options: list[str], tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("joined") / "run"
    result = ctseg(
        "train", *halves, "-o", folder, "--steps", 8, "--set", "data.folds=2", *mini_options
    )
    assert result.exit_code == 0, result.output
    return folder


def test_several_data_sets_train_one_model(joined_run, halves):
    card, config = (
        read_card(joined_run / "best.safetensors"),
        load_config(joined_run / "config.toml"),
    )
    assert [label.name for label in card.task.labels] == ["background", "box", "brick"]
    assert card.training_data.name == "box + brick"
    assert config.data.also == (str(halves[1]),)
    report = Report.read(joined_run / "validation" / "report.json")
    scored = {case.case: [item.label for item in case.labels] for case in report.cases}
    assert all(
        labels == (["box"] if int(case[-1]) < 4 else ["brick"]) for case, labels in scored.items()
    )
    assert {len(labels) for labels in scored.values()} == {1} and len(scored) == 4


def test_a_joined_run_is_measured_and_resumed(joined_run, tmp_path):
    run = shutil.copytree(joined_run, tmp_path / "run")
    assert ctseg("train", "--resume", run).exit_code == 0
    result = ctseg(
        "zoo", "publish", run, "--tag", "joined", "--zoo", tmp_path / "zoo", "--licence", "CC0"
    )
    assert result.exit_code == 0, result.output


def test_cases_without_a_drawn_label_train_and_validate_on_the_others(
    mini_set, mini_options, tmp_path
):
    folder = shutil.copytree(mini_set, tmp_path / "Mini")
    drawn = {f"mini_{n}": ["box"] for n in range(0, 8, 2)}
    (folder / "labels.json").write_text(json.dumps(drawn))
    run = tmp_path / "run"
    result = ctseg("train", folder, "-o", run, "--steps", 4, *mini_options)
    assert result.exit_code == 0, result.output
    report = Report.read(run / "validation" / "report.json")
    for case in report.cases:
        expected = ["box"] if case.case in drawn else ["box", "brick"]
        assert [item.label for item in case.labels] == expected
    predicted = tmp_path / "out"
    assert (
        ctseg(
            "predict", folder, "--fold", 0, "-m", run, "-o", predicted, "--device", "cpu"
        ).exit_code
        == 0
    )
    result = ctseg("evaluate", predicted, folder, "--fold", 0, "--json")
    assert result.exit_code == 0, result.output
    for case in json.loads(result.stdout)["cases"]:
        assert list(case["labels"]) == (["box"] if case["case"] in drawn else ["box", "brick"])


@pytest.mark.slow
def test_what_was_not_drawn_is_learnt_where_it_was(
    halves, mini_set, mini_options, tmp_path, monkeypatch
):
    """Taken for background, a label is unlearnt in every case in which it was not drawn."""
    means = []
    for name in ("left out", "background"):
        run, out = tmp_path / name, tmp_path / f"{name} predicted"
        command = [
            "train",
            *halves,
            "-o",
            run,
            "--steps",
            240,
            "--set",
            "data.folds=2",
            *mini_options,
        ]
        settings = ["--set", "train.steps_per_epoch=240", "--set", "augment.preset=none"]
        assert ctseg(*command, *settings).exit_code == 0
        assert ctseg("predict", mini_set, "-m", run, "-o", out, "--device", "cpu").exit_code == 0
        found = json.loads(ctseg("evaluate", out, mini_set, "--json").stdout)
        means.append(found["mean_dice"])
        monkeypatch.setattr(Loader, "undrawn", lambda self, step: None)
    assert means[0] > means[1] + 0.03


def test_a_model_of_more_labels_is_evaluated_by_name(joined_run, halves, tmp_path):
    """In the second data set the brick has the value 7, in the predictions 2; the box is unknown there."""
    out = tmp_path / "out"
    assert (
        ctseg("predict", halves[1], "-m", joined_run, "-o", out, "--device", "cpu").exit_code == 0
    )
    found = json.loads(ctseg("evaluate", out, halves[1], "--json").stdout)
    assert list(found["labels"]) == ["brick"]
    for case in found["cases"]:
        predicted = read(out / f"{case['case']}.nii.gz").array == 2
        reference = read(halves[1] / "labelsTr" / f"{case['case']}.nii.gz").array == 7
        dice = 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum())
        assert case["labels"]["brick"]["dice"] == pytest.approx(dice)
