"""Ensembles of folds on their own data: each case is predicted by the member that did not train on it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from ctseg.card import TrainingData
from ctseg.cli.app import app
from ctseg.data.readers.find import open_dataset
from ctseg.data.splits import fold_cases
from ctseg.errors import BadInput
from ctseg.zoo.load import load
from ctseg.zoo.out_of_fold import folds_of
from ctseg.zoo.publish import publish


def voxels(path: Path) -> np.ndarray:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def runs(make_run) -> list[Path]:
    return [make_run("series/fold0", fold=0), make_run("series/fold1", fold=1, seed=1)]


@pytest.mark.parametrize("published", [True, False])
def test_each_case_is_predicted_by_the_member_that_did_not_train_on_it(
    runs, dataset: Path, tmp_path: Path, published: bool
) -> None:
    name = publish(runs, tag="balls").name if published else str(tmp_path / "series")
    run("predict", str(dataset), "-m", name, "--fold", "all", "-o", str(tmp_path / "all"))
    for fold, single in enumerate(runs):
        weights = (
            publish(single, tag=f"alone{fold}", measure=False).name if published else str(single)
        )
        out = tmp_path / f"alone{fold}"
        run("predict", str(dataset), "-m", weights, "--fold", str(fold), "-o", str(out))
        run("predict", str(dataset), "-m", name, "--fold", str(fold), "-o", str(tmp_path / "one"))
        files = sorted(out.glob("*.nii.gz"))
        assert [file.name for file in files] == [f"ball_{2 * fold + n}.nii.gz" for n in (0, 1)]
        for file in files:
            assert np.array_equal(voxels(file), voxels(tmp_path / "all" / file.name))
            assert np.array_equal(voxels(file), voxels(tmp_path / "one" / file.name))
    assert len(list((tmp_path / "all").glob("*.nii.gz"))) == 4
    record = json.loads((tmp_path / "all" / "predictions.json").read_text())
    made_with = [case.get("made_with", record)["model_digest"] for case in record["cases"]]
    assert made_with[0] == made_with[1] != made_with[2] == made_with[3]


def test_the_command_of_an_ensemble_prints_its_figures(
    runs, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish(runs, tag="balls")
    card = entry.card()
    predict, evaluate = (shlex.split(line)[1:] for line in card.metrics.command.splitlines())
    monkeypatch.chdir(tmp_path)
    (tmp_path / dataset.name).symlink_to(dataset)
    run(*predict, "--precision", "fp32")  # as the runs validated
    report = json.loads(run(*evaluate, "--json"))
    assert report["mean_dice"] == card.metrics.mean_dice
    labels = report["labels"]
    assert {name: line["dice"] for name, line in labels.items()} == card.metrics.dice
    assert card.card_version == 2
    low, high = card.metrics.mean_interval
    page = (entry.folder / "README.md").read_text()
    assert "95 % interval" in page
    assert f"{low:.4f} to {high:.4f}" in page


def test_cases_are_dealt_into_as_many_folds_as_in_training(
    make_run, dataset: Path, tmp_path: Path
) -> None:
    own = tmp_path / "Own"
    shutil.copytree(dataset, own)
    (own / "splits.json").unlink()
    runs = []
    for fold in (0, 1):
        data = TrainingData(name="Own", licence="CC BY 4.0", cases=2, fold=fold, folds=2)
        run_ = make_run(f"own/fold{fold}", fold=fold, training_data=data, card_version=2)
        text = (run_ / "config.toml").read_text().replace(str(dataset), str(own))
        (run_ / "config.toml").write_text(text.replace("folds = 5", "folds = 2"))
        runs.append(run_)
    entry = publish(runs, tag="own")
    assert entry.card().training_data.folds == 2
    for fold in (0, 1):
        out = tmp_path / f"fold{fold}"
        run("predict", str(own), "-m", entry.name, "--fold", str(fold), "-o", str(out))
        names = {file.name.removesuffix(".nii.gz") for file in out.glob("*.nii.gz")}
        assert names == set(fold_cases(open_dataset(own), fold, 2)[1])
    assert entry.card().metrics.command.endswith("--fold all --set folds=2")
    assert set(json.loads(entry.card().to_json())["training_data"]) >= {"folds"}
    alone = make_run("of_five", fold=1)
    with pytest.raises(BadInput, match="different numbers of folds"):
        load([runs[0], alone], fold=1)


def test_folds_that_no_member_was_validated_by_are_refused(runs) -> None:
    name = publish(runs, tag="balls", measure=False).name
    assert folds_of([name]) == (0, 1)
    with pytest.raises(
        BadInput, match="has trained on the cases of fold 2; there are members of the folds 0, 1"
    ):
        load(name, fold=2)
    with pytest.raises(BadInput, match="is no ensemble of folds"):
        folds_of([runs[0]])
    notes: list[str] = []
    alone = load(runs[0], fold=3, on_note=notes.append)  # alone, it is what was asked for
    assert alone.model.card.training_data.fold == 0
    assert len(notes) == 1 and "trained on the cases of fold 3" in notes[0]
    load(runs[0], fold=0, on_note=notes.append)
    load(name, fold=1, on_note=notes.append)
    assert len(notes) == 1


def test_members_of_no_fold_predict_together(runs, make_run) -> None:
    again = make_run("again", fold=0, seed=2)
    name = publish([runs[0], again], tag="seeds", measure=False).name
    assert len(load(name, fold=0).model.networks) == 2
    with pytest.raises(BadInput, match="fold 1"):
        load(name, fold=1)


def test_all_folds_need_members_that_all_say_theirs(runs, make_run) -> None:
    data = TrainingData(name="Balls", licence="CC BY 4.0", cases=4)
    whole = make_run("whole", seed=2, training_data=data)
    with pytest.raises(BadInput, match="is no ensemble of folds"):
        folds_of([*runs, whole])  # it trained on the cases of every fold
