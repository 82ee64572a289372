"""`ctseg evaluate` as it is typed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ctseg.cli.app import app
from ctseg.errors import DiskFull
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
    named = ("--metrics", "dice,iou")
    result = _run(data / "made", data / "Set" / "labelsTr", "--cases", "c2,c3", *named)
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["c2", "organ", "0.667", "0.500", "0.016", "0.032", "both"] in rows
    assert ["mean", "0.8333", "0.7500", "2"] in rows


def test_files_are_written_by_their_suffixes(data: Path) -> None:
    out = data / "new" / "scores.csv"
    page, plain = data / "report.html", data / "report.json"
    files = ("-o", out, "-o", page, "-o", plain)
    result = _run(data / "made", data / "Set", "--fold", 1, *files, "--json")
    assert result.exit_code == 0, result.output
    assert [row["case"] for row in csv.DictReader(out.read_text().splitlines())] == ["c2", "c3"]
    assert json.loads(plain.read_text()) == json.loads(result.stdout)
    text = page.read_text(encoding="utf-8")
    worst = text.partition("Worst cases first</h2>")[2]
    assert worst.index("<h3>c2") < worst.index("<h3>c3")
    assert text.count('alt="scan of') == 2 and text.count("data:image/png") == 6


def test_the_scan_is_found_from_a_folder_of_labels_too(data: Path) -> None:
    page = data / "report.html"
    labels = data / "Set" / "labelsTr"
    assert _run(data / "made", labels, "--cases", "c2,c3", "-o", page).exit_code == 0
    assert page.read_text(encoding="utf-8").count('alt="scan of') == 2
    single = _run(data / "made" / "c2.nii.gz", labels / "c2.nii.gz", "-o", page)
    assert single.exit_code == 0, single.output
    assert page.read_text(encoding="utf-8").count('alt="scan of') == 1


def test_the_old_spelling_of_csv_is_taken(data: Path) -> None:
    out = data / "scores.csv"
    result = _run(data / "made", data / "Set", "--fold", 1, "--csv", out)
    assert result.exit_code == 0 and out.is_file()
    assert "--csv is an old spelling; write -o" in result.stderr


def test_slices(data: Path) -> None:
    result = _run(
        data / "made/c2.nii.gz", data / "Set/labelsTr/c2.nii.gz", "--slices", "2:", "--json"
    )
    assert json.loads(result.stdout)["mean_dice"] == 1


def test_a_run_shows_its_own_validation(tmp_path: Path) -> None:
    report = Report(
        (CaseResult("c0", (LabelResult("organ", {"dice": 0.5, "iou": 1 / 3}, 1.0, 1.0),)),)
    )
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "report.json").write_text(report.to_json())
    result = _run(tmp_path, "--json", "--resamples", 0)
    assert json.loads(result.stdout) == report.to_dict()
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "validation", other / "validation")
    result = _run(tmp_path, "--against", other)
    assert next(
        line.split()[:5] for line in result.stdout.splitlines() if line.startswith("Dice ")
    ) == ["Dice", "organ", "0.5000", "0.5000", "+0.0000"]


def test_what_is_measured_by_default_and_how_sure_it_is(data: Path) -> None:
    for name in ("c0", "c1"):
        shutil.copy(data / "made" / "c2.nii.gz", data / "made" / f"{name}.nii.gz")
    result = _run(data / "made", data / "Set", "--json", "--seed", 3)
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert set(found["means"]) == {"dice", "iou", "hd95", "surface_distance", "surface_dice"}
    assert found["means"]["hd95"] == 0.75  # one slice of 1 mm is missing in three of four
    low, high = found["intervals"]["means"]["dice"]
    assert low <= found["mean_dice"] <= high
    assert found["intervals"]["seed"] == 3 and found["settings"]["tolerance_mm"] == 1
    assert found["cases"][0]["diagonal_mm"] == pytest.approx(48**0.5)
    table = _run(data / "made", data / "Set")
    assert "95 % intervals of the means, over 4 cases" in table.stdout
    assert "Surface Dice within 1 mm." in table.stdout
    assert "intervals" not in _run(data / "made", data / "Set", "--resamples", 0).stdout


def test_two_predictions_are_compared_case_by_case(data: Path) -> None:
    fold = (data / "Set", "--fold", 1)
    other = data / "other"
    other.mkdir()
    for name in ("c2", "c3"):
        shutil.copy(data / "Set" / "labelsTr" / f"{name}.nii.gz", other)
    result = _run(data / "made", *fold, "--against", other, "--json", "--metrics", "dice,hd95")
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert found["against"]["mean_dice"] == 1 and found["mean_dice"] == pytest.approx(5 / 6)
    dice = next(d for d in found["comparison"] if d["metric"] == "dice")
    assert dice["difference"] == pytest.approx(-1 / 6)
    assert (dice["better"], dice["worse"], dice["equal"], dice["cases"]) == (0, 1, 1, 2)
    assert dice["p_value"] == 1  # one difference says nothing
    csv_file = data / "both.csv"
    page = data / "report.html"
    files = ("-o", csv_file, "-o", page)
    assert _run(data / "made", *fold, "--against", other, *files).exit_code == 0
    assert "-0.1667" in page.read_text()
    assert page.read_text().count("<figcaption>" + str(other)) == 2
    rows = list(csv.DictReader(csv_file.read_text().splitlines()))
    assert [row["predictions"] for row in rows] == [str(data / "made")] * 2 + [str(other)] * 2


def test_tolerances_labels_instances_and_masks(data: Path) -> None:
    pair = (data / "made" / "c2.nii.gz", data / "Set" / "labelsTr" / "c2.nii.gz")
    for tolerance, value in (("1", 1.0), ("organ=0.5", None)):
        result = _run(*pair, "--tolerance", tolerance, "--metrics", "surface_dice", "--json")
        found = json.loads(result.stdout)["means"]["surface_dice"]
        assert found == value if value else 0 < found < 1
    result = _run(*pair, "--instances", "--metrics", "instances", "--iou", "0.4,0.6", "--json")
    found = json.loads(result.stdout)
    assert found["labels"]["instances"]["average_precision"] == 0.5
    assert _run(*pair, "--labels", "liver").exit_code == 2
    whole = np.zeros((4, 4, 4), np.uint8)
    whole[2:] = 1
    write(Volume.from_array(whole), data / "mask.nii.gz")
    result = _run(*pair, "--mask", data / "mask.nii.gz", "--json")
    assert json.loads(result.stdout)["mean_dice"] == 1


def test_the_notes_say_what_the_means_leave_out(tmp_path: Path) -> None:
    def labels(*values: int) -> Volume:
        array = np.zeros((6, 6, 6), np.uint8)
        for value in values:
            array[2 * value - 2 : 2 * value, 1:5, 1:5] = value
        return Volume.from_array(array)

    for folder, cases in {
        "ref": {"a": (1, 2), "b": (1,), "c": (1,)},
        "new": {"a": (1,), "b": (1, 3), "c": (1, 2)},
        "old": {"a": (1, 2), "b": (1,), "c": (1, 2)},
    }.items():
        for case, values in cases.items():
            write(labels(*values), tmp_path / folder / f"{case}.nii.gz")
    result = _run(
        *(tmp_path / "new", tmp_path / "ref", "--against", tmp_path / "old"),
        *("--metrics", "all", "--tolerance", "1=2", "--iou", "0.5,0.75"),
    )
    assert result.exit_code == 0, result.stderr
    for note in (
        "Surface Dice within 1 2 mm, others 1 mm.",
        "AP of instances with an IoU of 0.5, 0.75.",
        "2: missed in 1 and invented in 1 of 2 cases; these score the worst value and, as a distance,",
        "2: absent from both maps of 1 case, left out of the means.",
        "3: 1 case without difference, left out of its mean.",
        f"{tmp_path / 'new'} against {tmp_path / 'old'}",
    ):
        assert note in result.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["made"], "REFERENCE"),
        (["none"], "does not exist"),
        (["made", "none"], "does not exist"),
        (["made", "Set"], "--fold"),
        (["made", "Set", "--fold", "7"], "fold"),
        (["made", "Set", "--set", "folds=4"], "--set folds has no effect without --fold"),
        (["made", "Set", "--fold", "1", "--instance-ids", "--labels", "organ"], "no effect on ids"),
        (["made", "Set", "--fold", "0", "--cases", "c3"], "does not validate in fold 0"),
        (["made", "Set", "--cases", "c9"], "c9"),
        (["made", "Set", "--fold", "1", "--slices", "x"], "START:STOP"),
        (["made", "Set", "--fold", "1", "-o", "made"], "Suffixes: .html, .csv, .json"),
        (["made", "Set", "--fold", "1", "-o", "made/c2.nii.gz"], "no kind of file"),
        (["made", "Set", "--fold", "1", "-o", "Set/dataset.json/x.csv"], "is no folder"),
        (["made", "Set", "--fold", "1", "--cases", ","], "names nothing"),
        (["made", "Set", "--fold", "1", "--labels", ""], "names nothing"),
        (["made", "Set", "--fold", "1", "--tolerance", "nan"], "0 or more"),
        (["made", "Set", "--fold", "1", "--confidence", "nan"], "confidence"),
        (
            ["made", "Set", "--fold", "1", "--suggest-cleanup", "-o", "x.csv"],
            "-o has no effect",
        ),
        (["made", "Set", "--fold", "1", "--suggest-cleanup", "--slices", "1:"], "--slices has no"),
        (["made", "Set", "--fold", "1", "--suggest-cleanup", "--against", "made"], "--against has"),
        (["made", "Set", "--fold", "1", "--metrics", "dise"], "dice"),
        (["made", "Set", "--fold", "1", "--metrics", ","], "No metric"),
        (["made", "Set", "--fold", "1", "--tolerance", "x"], "--tolerance"),
        (["made", "Set", "--fold", "1", "--tolerance", "-1"], "0 or more"),
        (["made", "Set", "--fold", "1", "--tolerance", "lever=1"], "organ"),
        (["made", "Set", "--fold", "1", "--iou", "a"], "--iou"),
        (["made", "Set", "--fold", "1", "--iou", "0"], "above 0"),
        (["made", "Set", "--fold", "1", "--bootstrap", "x"], "percentile"),
        (["made", "Set", "--fold", "1", "--resamples", "5"], "100 resamples"),
        (["made", "Set", "--fold", "1", "--mask", "made/c2.nii.gz"], "2 cases"),
        (["made", "Set", "--fold", "1", "--data-range", "0"], "data range"),
        (["made", "--metrics", "hd95"], "needs a reference"),
        (["made", "--cases", "c1"], "--cases needs a reference"),
        (["made", "--tolerance", "2"], "--tolerance needs a reference"),
        (["made", "Set", "--fold", "1", "--against", "none"], "does not exist"),
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


def test_a_csv_that_cannot_be_written_does_not_take_what_was_measured(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise DiskFull("The disk is full.")

    monkeypatch.setattr("ctseg.files.write_text", full)
    result = _run(data / "made", data / "Set", "--fold", 1, "-o", data / "x.csv", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["mean_dice"] == pytest.approx(5 / 6)
    assert "disk is full" in result.stderr


def test_a_damaged_report_of_a_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    for content in (b"\xff\xfe", b"{", b"[]"):
        (tmp_path / "validation" / "report.json").write_bytes(content)
        result = _run(tmp_path)
        assert result.exit_code == 2
        assert "report.json" in result.stderr
