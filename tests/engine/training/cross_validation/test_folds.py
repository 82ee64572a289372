"""Cross-validation: all folds as one series of runs, which goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from ctseg import read
from ctseg.card import parse_card
from ctseg.cli.app import app
from ctseg.config import load_config
from ctseg.data.load import load_image, load_label
from ctseg.data.readers.find import open_dataset
from ctseg.data.splits import all_folds, fold_cases
from ctseg.engine.evaluation.calibration import fit_temperature
from ctseg.engine.evaluation.runs import report_of, runs_in
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.training.cross_validation import fold_processes
from ctseg.engine.training.cross_validation.set_aside import set_aside
from ctseg.engine.training.step import Stepper
from ctseg.engine.training.validate import validation_cases
from ctseg.errors import BadInput
from ctseg.metrics.report import Report
from ctseg.temporary import held


def ctseg(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="session")
def two_folds(mini_set: Path, mini_options: list[str], tmp_path_factory: Any) -> Path:
    """Two folds of four steps."""
    folder = tmp_path_factory.mktemp("series") / "folds"
    command = ["train", mini_set, "--fold", "all", "-o", folder, "--steps", 4, *mini_options]
    result = ctseg(*command, "--set", "data.folds=2")
    assert result.exit_code == 0, result.output
    assert "Fold 1 of 0 to 1" in result.output
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(safetensors.torch.load_file(run / "best.safetensors"))


def test_folds_do_not_go_into_a_run(two_folds, mini_set, mini_options, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_folds / "fold0", run)
    before = sorted(run.iterdir())
    for more in ((), ("--overwrite",)):
        command = ["train", mini_set, "--fold", "all", "-o", run, "--steps", 4, *mini_options]
        result = ctseg(*command, "--set", "data.folds=2", *more)
        assert result.exit_code == 2 and "is a run itself" in " ".join(result.output.split())
        assert sorted(run.iterdir()) == before


def test_every_case_validates_once_and_all_folds_share_a_plan(two_folds, mini_set):
    ids = [case.id for case in open_dataset(mini_set).cases]
    reports = [Report.read(two_folds / f"fold{n}" / "validation" / "report.json") for n in (0, 1)]
    assert sorted(case.case for report in reports for case in report.cases) == ids
    one, two = (load_config(two_folds / f"fold{n}" / "config.toml") for n in (0, 1))
    assert two.data.fold == 1
    assert two.model_copy(update={"data": one.data}) == one
    splits = json.loads((two_folds / "splits.json").read_text())
    assert [fold["val"] for fold in splits] == [[c.case for c in r.cases] for r in reports]
    assert all(sorted(fold["train"] + fold["val"]) == ids for fold in splits)


def test_the_fold_of_a_run_file_does_not_count(
    two_folds, mini_set, mini_options, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = ["--steps", 4, *mini_options, "--set", "data.folds=2", "--set", "data.fold=12"]
    result = ctseg("train", mini_set, "--fold", "all", *options)
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-unet3d-folds")
    assert (folder / "splits.json").read_text() == (two_folds / "splits.json").read_text()
    for number in (0, 1):
        assert load_config(folder / f"fold{number}" / "config.toml").data.fold == number


def test_the_table_is_over_all_cases_with_intervals_over_patients(two_folds, tmp_path):
    result = ctseg("evaluate", two_folds, "--json", "-o", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    files = [two_folds / f"fold{n}" / "validation" / "report.json" for n in (0, 1)]
    cases = [case for file in files for case in json.loads(file.read_text())["cases"]]
    for label in ("box", "brick"):
        dice = [case["labels"][label]["dice"] for case in cases]
        assert found["labels"][label]["dice"] == pytest.approx(np.mean(dice))
    assert found["intervals"]["groups"] == 8
    assert "mini_0" in (tmp_path / "report.html").read_text()
    assert "mini_0" in (two_folds / "report.html").read_text()


def test_a_killed_series_goes_on_where_it_was(two_folds, tmp_path):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    expected, before = (
        weights(folder / "fold1"),
        (folder / "fold0" / "log.jsonl").stat().st_mtime_ns,
    )
    shutil.rmtree(folder / "fold1")
    with pytest.raises(BadInput, match="fold1 of 2 folds did not train"):
        report_of(folder)
    result = ctseg("train", "--resume", folder)
    assert result.exit_code == 0, result.output
    assert "Fold 0 is finished" in result.output
    assert (folder / "fold0" / "log.jsonl").stat().st_mtime_ns == before
    again = weights(folder / "fold1")
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_other_cases_than_at_the_start_are_refused(two_folds, tmp_path):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    splits = json.loads((folder / "splits.json").read_text())
    (folder / "splits.json").write_text(json.dumps(splits[::-1]))
    result = ctseg("train", "--resume", folder)
    assert result.exit_code == 2
    assert "have changed since" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--fold", "last"], "is no fold"),
        (["--fold", "all", "--set", 'data.val=["mini_0"]'], "there are no folds"),
        (["--fold", "all", "--set", "data.folds=2"], "holds a run"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(arguments, told, mini_set, two_folds):
    result = ctseg("train", mini_set, "-o", two_folds, "--steps", 4, *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())


@pytest.mark.parametrize("length", [["--steps", 9], []])
def test_a_series_is_extended_fold_by_fold(length, two_folds):
    result = ctseg("train", "--resume", two_folds, "--extend", *length)
    assert result.exit_code == 2
    assert f"--resume {two_folds}/fold0 --extend" in " ".join(result.output.split())


def test_a_folder_that_holds_no_series_is_not_resumed(tmp_path):
    result = ctseg("train", "--resume", "--fold", "all", "-o", tmp_path)
    assert result.exit_code == 2
    assert "--fold all -o RUNS" in result.output


def test_runs_of_the_same_cases_are_not_joined(two_folds, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(two_folds / "fold0", tmp_path / name)
    assert [run.name for run in runs_in(tmp_path)] == ["first", "second"]
    with pytest.raises(BadInput, match="ctseg compare") as error:
        report_of(tmp_path)
    assert "validates in" in error.value.message


def test_folds_stand_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        (tmp_path / f"fold{number}").mkdir()
        (tmp_path / f"fold{number}" / "config.toml").touch()
    assert [run.name for run in runs_in(tmp_path)] == ["fold1", "fold2", "fold10"]


def test_all_folds_are_those_of_the_data_set_or_dealt_out(mini_set):
    dataset = open_dataset(mini_set)
    assert all_folds(dataset, 5) == tuple(fold_cases(dataset, n, 5) for n in range(5))
    assert len(all_folds(dataset, 20)) == 8  # no more than there are cases


def test_a_folder_of_folds_is_published_as_one_ensemble(two_folds, tmp_path):
    result = ctseg("zoo", "publish", two_folds, "--tag", "mini", "--zoo", tmp_path, "--no-measure")
    assert result.exit_code == 0, result.output
    card = parse_card((tmp_path / "unet3d.mini" / "card.json").read_text(), where="card.json")
    assert [member.fold for member in card.members] == [0, 1]
    assert card.metrics.cases == 8


def test_a_folder_of_folds_predicts_as_its_runs_together(two_folds, mini_set, tmp_path):
    scan = sorted((mini_set / "imagesTr").iterdir())[0]
    together = [part for n in (0, 1) for part in ("-m", two_folds / f"fold{n}")]
    for name, models in (("folder", ["-m", two_folds]), ("runs", together)):
        done = ctseg("predict", scan, *models, "-o", tmp_path / f"{name}.nii.gz")
        assert done.exit_code == 0, done.output
    folder, runs = (read(tmp_path / f"{name}.nii.gz").array for name in ("folder", "runs"))
    assert (folder == runs).all()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def replaced(folder: Path, mini_set: Path, mini_options: list[str], *more: object) -> Any:
    """A new series with another seed in the place of one that is there."""
    command = ["train", mini_set, "--fold", "all", "--overwrite", "-o", folder, "--steps", 4]
    return ctseg(*command, *mini_options, "--set", "data.folds=2", "--seed", 7, *more)


def test_a_replaced_series_that_was_stopped_keeps_no_earlier_fold(
    two_folds, mini_set, mini_options, tmp_path, monkeypatch
):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    shutil.copytree(two_folds / "fold1", folder / "fold6")  # of an earlier series of seven

    def stopped(self, step):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", stopped)
        assert replaced(folder, mini_set, mini_options).exit_code == 130
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["fold0"]
    result = ctseg("train", "--resume", folder)
    assert result.exit_code == 0, result.output
    assert [load_config(run / "config.toml").seed for run in runs_in(folder)] == [7, 7]
    assert "is finished" not in result.output


@pytest.mark.parametrize("splits", [2, 3])
def test_a_series_whose_successor_is_refused_stays_whole(
    two_folds, mini_set, mini_options, tmp_path, splits
):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    before = contents(folder)
    more = ("--set", f"data.folds={splits}", "--device", "cuda:99")
    result = replaced(folder, mini_set, mini_options, *more)
    assert result.exit_code == 2, result.output
    assert contents(folder) == before
    with held(folder / "fold1"):
        result = replaced(folder, mini_set, mini_options)
    assert result.exit_code == 2
    assert "Another process is training in" in result.output
    assert contents(folder) == before


def test_a_series_that_a_killed_process_set_aside_is_found(two_folds, tmp_path):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    before = contents(folder)
    set_aside(folder)
    (folder / "fold0").mkdir()
    (folder / "fold0" / "plan.json").touch()
    result = ctseg("train", "--resume", folder)
    assert result.exit_code == 0, result.output
    assert "Fold 1 is finished" in result.output
    assert {name: text for name, text in contents(folder).items() if name != "report.html"} == {
        name: text for name, text in before.items() if name != "report.html"
    }


@pytest.mark.slow
def test_a_series_is_replaced_side_by_side(two_folds, mini_set, mini_options, tmp_path):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    result = replaced(folder, mini_set, mini_options, "--device", "cpu,cpu")
    assert result.exit_code == 0, result.output
    assert [load_config(run / "config.toml").seed for run in runs_in(folder)] == [7, 7]
    assert not (folder / ".earlier").exists()


def not_finished(folder: Path, device: str) -> None:
    """Have a fold begun on a device, on which nothing was trained yet."""
    shutil.rmtree(folder / "last")
    text = (folder / "config.toml").read_text()
    assert 'device = "cpu"' in text
    (folder / "config.toml").write_text(text.replace('device = "cpu"', f'device = "{device}"'))


def test_a_fold_that_has_begun_keeps_its_device(two_folds, tmp_path):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    not_finished(folder / "fold1", "cuda:3")
    for devices in ("cpu", "cpu,cuda:1"):
        result = ctseg("train", "--resume", folder, "--device", devices)
        assert result.exit_code == 2
        told = " ".join(result.output.split())
        assert "Fold 1 has begun on cuda:3" in told
        assert f"--device cuda:3,{devices}" in told


def test_folds_that_have_not_begun_take_the_device_that_is_asked_for(two_folds, tmp_path):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    shutil.rmtree(folder / "fold1")
    result = ctseg("train", "--resume", folder, "--device", "cuda:99")
    assert result.exit_code == 2  # though fold 0 began on the CPU
    assert "cuda:99" in result.output or "CUDA" in result.output
    assert not (folder / "fold1").exists()


def test_each_fold_waits_for_a_device_on_which_it_may_train(two_folds, tmp_path):
    folder = Path(shutil.copytree(two_folds, tmp_path / "folds"))
    not_finished(folder / "fold1", "cuda:3")
    waiting = [(1, True), (2, False)]
    assert fold_processes._next(folder, waiting, ["cpu", "cuda:3"]) == (1, True, "cuda:3")
    assert fold_processes._next(folder, waiting, ["cpu"]) == (2, False, "cpu")
    assert fold_processes._next(folder, waiting, []) is None
    assert fold_processes._next(tmp_path, [(0, False), (1, False)], ["a"]) == (0, False, "a")
    assert fold_processes._next(tmp_path, [(1, False)], ["a"]) is None  # nothing is planned


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sessions")
def test_a_fold_gets_no_ctrl_c_from_the_terminal(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    running = fold_processes._Running()
    running.processes[0] = process = fold_processes._start(tmp_path, 0, "cpu", None)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    running.stop()
    assert process.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_folds_train_side_by_side(two_folds, mini_set, mini_options, tmp_path):
    folder = tmp_path / "folds"
    options = [value if value != "cpu" else "cpu,cpu" for value in mini_options]
    command = ["train", mini_set, "--fold", "all", "-o", folder, "--steps", 4, *options]
    result = ctseg(*command, "--set", "data.folds=2")
    assert result.exit_code == 0, result.output
    assert load_config(folder / "fold1" / "config.toml").train.device == "cpu"
    for name in ("fold0", "fold1"):
        one, two = weights(folder / name), weights(two_folds / name)
        assert all(torch.equal(one[key], two[key]) for key in two)
    shutil.rmtree(folder / "fold1")
    (folder / "fold1").write_text("in the way")
    result = ctseg("train", "--resume", "-o", folder, "--device", "cpu,cpu")
    assert result.exit_code == 1
    assert "fold1.log" in result.output


@pytest.mark.slow
def test_temperature_and_rules_fitted_to_cases_that_validated_travel_with_the_ensemble(
    two_folds, tmp_path
):
    command = ["zoo", "publish", two_folds, "--tag", "fitted", "--zoo", tmp_path, "--fit"]
    result = ctseg(*command)
    assert result.exit_code == 0, result.output
    card = parse_card((tmp_path / "unet3d.fitted" / "card.json").read_text(), where="card.json")
    assert f"temperature {card.temperature:g}" in result.output
    assert card.temperature != 1
    # the same by other means: probabilities of each fold's network on its own validation cases
    pairs = []
    for fold in (0, 1):
        run = two_folds / f"fold{fold}"
        segmenter = Segmenter.from_files(
            [tmp_path / "unet3d.fitted" / f"fold{fold}.safetensors"], device="cpu"
        )
        assert segmenter.card == card
        plain = segmenter.card.model_copy(update={"temperature": 1.0})
        segmenter.model.card = plain
        for case in validation_cases(run)[1]:
            image = load_image(case)
            probabilities = segmenter.probabilities(image).array
            known = load_label(case, segmenter.task, image).array
            pairs.append((np.log(probabilities).reshape(3, -1).T, known.ravel()))
    expected = fit_temperature(pairs)
    assert card.temperature == pytest.approx(expected.temperature, rel=0.02)


@pytest.mark.slow
def test_the_mean_of_two_series_is_measured_fold_by_fold(two_folds, tmp_path):
    other = shutil.copytree(two_folds, tmp_path / "other")
    result = ctseg("compare", two_folds, other, "--ensembles", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    # the mean of a series and its copy is the series itself
    means = [one["mean"] for one in found["ranking"]]
    assert len(means) == 3
    assert max(means) - min(means) < 1e-3
