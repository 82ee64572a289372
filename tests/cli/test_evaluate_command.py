"""`ctseg evaluate` as it is typed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ctseg.cli.app import app
from ctseg.metrics.report import CaseResult, LabelResult, Report
from ctseg.volume.io import write
from ctseg.volume.volume import Volume


def _run(*args: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, args)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of four cases in two folds, and predictions of the two that validate in fold 1."""
    array = np.zeros((4, 4, 4), np.uint8)
    array[1:3] = 1
    names = [f"c{i}" for i in range(4)]
    for name in names:
        for folder in ("imagesTr", "labelsTr"):
            write(Volume.from_array(array), tmp_path / "Set" / folder / f"{name}.nii.gz")
    half = array.copy()
    half[1] = 0
    write(Volume.from_array(half), tmp_path / "made" / "c2.nii.gz")
    write(Volume.from_array(array), tmp_path / "made" / "c3.nii.gz")
    about = {
        "name": "Set", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"},
        "training": [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in names],
    }  # fmt: skip
    (tmp_path / "Set" / "dataset.json").write_text(json.dumps(about))
    splits = [{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}]
    (tmp_path / "Set" / "splits.json").write_text(json.dumps(splits))
    return tmp_path


def test_a_fold_picks_the_cases_that_validate(data: Path) -> None:
    result = _run(data / "made", data / "Set", "--fold", 1, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert [case["case"] for case in found["cases"]] == ["c2", "c3"]
    assert found["mean_dice"] == pytest.approx((2 / 3 + 1) / 2)


def test_the_table_shows_cases_and_means(data: Path) -> None:
    result = _run(data / "made", data / "Set" / "labelsTr", "--cases", "c2,c3")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["c2", "organ", "0.667", "0.500", "0.016", "0.032", "both"] in rows
    assert ["mean", "0.8333", "0.7500", "2"] in rows


def test_csv(data: Path) -> None:
    out = data / "new" / "scores.csv"
    assert _run(data / "made", data / "Set", "--fold", 1, "--csv", out).exit_code == 0
    assert [row["case"] for row in csv.DictReader(out.read_text().splitlines())] == ["c2", "c3"]


def test_slices(data: Path) -> None:
    result = _run(
        data / "made/c2.nii.gz", data / "Set/labelsTr/c2.nii.gz", "--slices", "2:", "--json"
    )
    assert json.loads(result.stdout)["mean_dice"] == 1


def test_a_run_shows_its_own_validation(tmp_path: Path) -> None:
    report = Report((CaseResult("c0", (LabelResult("organ", {"dice": 0.5, "iou": 1 / 3}, 1.0, 1.0),)),))
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "report.json").write_text(report.to_json())
    result = _run(tmp_path, "--json")
    assert json.loads(result.stdout) == report.to_dict()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["made"], "REFERENCE"),
        (["none"], "does not exist"),
        (["made", "none"], "does not exist"),
        (["made", "Set"], "--fold"),
        (["made", "Set", "--fold", "7"], "fold"),
        (["made", "Set", "--fold", "0", "--cases", "c3"], "does not validate in fold 0"),
        (["made", "Set", "--cases", "c9"], "c9"),
        (["made", "Set", "--fold", "1", "--slices", "x"], "START:STOP"),
        (["made", "Set", "--fold", "1", "--csv", "made"], "cannot be written"),
    ],
)
def test_bad_input_is_told_and_exits_2(
    data: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str
) -> None:
    monkeypatch.chdir(data)
    result = _run(*args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
