"""What `ctseg data inspect` finds, against scans whose numbers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.data.inspection.dataset import DataReport, inspect_dataset
from ctseg.data.inspection.scans import inspect_volume
from ctseg.data.readers.find import open_dataset
from ctseg.specs import Label
from ctseg.volume.io import write
from ctseg.volume.volume import Volume

NAMES = ("a", "b", "c", "d")
SPACING = (1.0, 2.0, 5.0)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


def mask(values: tuple[int, ...] = (1, 2)) -> np.ndarray:
    out = np.zeros((4, 5, 6), np.uint8)
    for index, value in enumerate(values):
        out[index, : index + 2, :3] = value
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four good cases of a liver and a tumour."""
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    for seed, name in enumerate(NAMES):
        put(tmp_path, "imagesTr", name, scan(seed))
        put(tmp_path, "labelsTr", name, mask())
    content = {
        "name": "Liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": [
            {"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in NAMES
        ],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def put(folder: Path, part: str, name: str, array: Any, spacing: Any = SPACING) -> None:
    write(Volume.from_array(array, spacing_xyz=spacing), folder / part / f"{name}.nii.gz")


def look(folder: Path) -> DataReport:
    return inspect_dataset(open_dataset(folder))


def test_numbers_of_a_good_data_set(folder: Path) -> None:
    seen: list[str] = []
    report = inspect_dataset(open_dataset(folder), seen.append)
    assert seen == list(NAMES)
    assert report.all_problems == []
    case = report.cases[1]
    assert (case.shape_zyx, case.spacing_xyz, case.orientation) == ((4, 5, 6), SPACING, "LPS")
    values = case.intensity[0]
    oracle = np.percentile(scan(1), [0, 0.5, 50, 99.5, 100])
    got = [values.low, values.p005, values.median, values.p995, values.high]
    np.testing.assert_allclose(got, oracle)
    assert [(size.name, size.voxels) for size in case.labels] == [("liver", 6), ("tumour", 9)]
    assert case.labels[1].ml == pytest.approx(9 * 10 / 1000)


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        ("labelsTr", np.zeros((4, 5, 7), np.uint8), "not on the grid of its image: shape"),
        ("labelsTr", mask((1, 9)), "label value 9"),
        ("labelsTr", mask() + np.float32(0.5), "no whole numbers"),
        ("imagesTr", np.full((4, 5, 6), np.nan, np.float32), "120 voxels that are NaN"),
        ("imagesTr", np.full((4, 5, 6), 7, np.int16), "7 everywhere"),
        ("imagesTr", scan(0), "a, b have the same images"),
    ],
)
def test_what_is_wrong_with_a_case(folder: Path, part: str, array: Any, message: str) -> None:
    put(folder, part, "b", array)
    problems = look(folder).all_problems
    assert len(problems) == 1
    assert message in problems[0]
    assert problems[0].startswith(("b: ", "a, b"))


def test_infinite_voxels_do_not_spoil_the_range(folder: Path) -> None:
    array = scan(1).astype(np.float32)
    array[0, 0, :2] = np.inf, np.nan
    put(folder, "imagesTr", "b", array)
    report = look(folder)
    assert "2 voxels" in report.all_problems[0]
    assert report.cases[1].intensity[0].high < 1000


def test_label_of_another_geometry(folder: Path) -> None:
    put(folder, "labelsTr", "c", mask(), (1.0, 2.0, 5.1))
    assert "spacing" in look(folder).all_problems[0]


def test_spacing_far_from_the_others(folder: Path) -> None:
    put(folder, "imagesTr", "d", scan(3), (0.1, 0.2, 0.5))
    put(folder, "labelsTr", "d", mask(), (0.1, 0.2, 0.5))
    (problem,) = look(folder).all_problems
    assert problem.startswith("d: its spacing 0.1 x 0.2 x 0.5 mm")


def test_a_label_that_no_case_has(folder: Path) -> None:
    for name in NAMES:
        put(folder, "labelsTr", name, mask((1,)))
    assert look(folder).all_problems == ["The label 'tumour' is in none of the 4 labelled cases."]


def test_unreadable_files_are_problems_of_their_case(folder: Path) -> None:
    for part, name in (("imagesTr", "a"), ("labelsTr", "b")):
        file = folder / part / f"{name}.nii.gz"
        file.write_bytes(file.read_bytes()[:-30])
    report = look(folder)
    assert [len(case.problems) for case in report.cases] == [1, 1, 0, 0]
    assert all("truncated" in text for text in report.all_problems)


def test_wrong_number_of_channels(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text()) | {
        "modality": {"0": "CT", "1": "PET"}
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    assert "has 1 channels, the data set 2" in look(folder).all_problems[0]


def test_a_single_scan_in_micrometres(tmp_path: Path) -> None:
    volume = Volume.from_array(scan(0), spacing_xyz=(0.002, 0.002, 0.004), unit="um")
    write(volume, tmp_path / "scan.h5")
    report = inspect_volume(tmp_path / "scan.h5")
    assert report.unit == "um"
    np.testing.assert_allclose(report.spacing_xyz or (), (0.002, 0.002, 0.004))
    assert "2 x 2 x 4 um" in run(tmp_path / "scan.h5").stdout


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["data", "inspect", *map(str, arguments)])


def test_command_on_a_good_data_set(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "Liver (decathlon): 4 labelled cases" in result.stdout
    assert "No problems found." in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith("liver"))
    assert line.split() == ["liver", "4", "24", "0.06", "0.06", "0.06"]


def test_command_on_a_bad_data_set(folder: Path) -> None:
    put(folder, "labelsTr", "b", mask((1, 9)))
    result = run(folder)
    assert result.exit_code == 1
    assert "1 problem found." in result.stdout
    assert "label value 9" in result.stdout


def test_json(folder: Path) -> None:
    result = run(folder, "--json")
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert content["cases"][0]["shape_zyx"] == [4, 5, 6]
    assert content["cases"][0]["labels"][0] == {
        "name": "liver",
        "voxels": 6,
        "ml": pytest.approx(0.06),
    }
    assert content["problems"] == []


def test_command_on_a_scan(folder: Path) -> None:
    result = run(folder / "imagesTr" / "a.nii.gz")
    assert result.exit_code == 0
    assert "1 x 2 x 5" in result.stdout
    assert (
        json.loads(run(folder / "imagesTr" / "a.nii.gz", "--json").stdout)["orientation"] == "LPS"
    )


@pytest.mark.parametrize(
    "arguments", [("nowhere",), (".", "--reader", "decatlon"), (".", "--option", "raw")]
)
def test_bad_usage(
    folder: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")


def test_a_missing_file_of_the_list_is_bad_input(folder: Path) -> None:
    (folder / "labelsTr" / "a.nii.gz").unlink()
    result = run(folder)
    assert result.exit_code == 2
    assert "labelsTr/a.nii.gz" in result.stderr


@pytest.mark.real_data
def test_a_dicom_folder(real_data: Path) -> None:
    result = run(real_data / "dicom_seg" / "series", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["shape_zyx"] == [3, 512, 512]


def test_a_folder_without_a_layout(tmp_path: Path) -> None:
    """Each volume is looked at by itself; label maps are told by their few values."""
    put_at = tmp_path / "one"
    put_at.mkdir()
    write(Volume.from_array(scan(0)), put_at / "ct.nii.gz")
    labels = np.zeros((4, 20, 30), np.uint8)
    labels[1:3, 5:15, 5:15] = 7
    write(Volume.from_array(labels), tmp_path / "organs.nrrd")
    (tmp_path / "damaged.nrrd").write_text("no header")
    result = CliRunner().invoke(app, ["data", "inspect", str(tmp_path), "--json"])
    found = json.loads(result.stdout)
    assert [case["id"] for case in found["cases"]] == [
        "damaged.nrrd",
        "organs.nrrd",
        "one/ct.nii.gz",
    ]
    damaged, organs, ct = found["cases"]
    assert damaged["problems"]
    assert result.exit_code == 1
    assert [(size["name"], size["voxels"]) for size in organs["labels"]] == [("value 7", 200)]
    assert ct["intensity"][0]["low"] == scan(0).min()
    assert not ct["labels"]


def test_a_single_label_map_shows_its_labels_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mask.nrrd"
    big = np.zeros((8, 20, 20), np.uint8)
    big[2:6, 5:15, 5:15] = 1
    write(Volume.from_array(big, spacing_xyz=SPACING), path, labels=[Label("liver", (1,), 1)])
    (size,) = inspect_volume(path).labels
    assert (size.name, size.voxels, size.ml) == ("liver", 400, pytest.approx(4.0))
    shown = CliRunner().invoke(app, ["data", "inspect", str(path)])
    assert shown.exit_code == 0
    assert [line.split() for line in shown.stdout.splitlines()][-1] == ["liver", "400", "4"]


def test_channels_keep_their_names_where_one_cannot_be_read(tmp_path: Path) -> None:
    for part in ("ct", "pet"):
        (tmp_path / part).mkdir()
        put(tmp_path, part, "a", scan(0))
    (tmp_path / "ct" / "a.nii.gz").write_bytes(b"no scan")
    (tmp_path / "list.csv").write_text("image_CT,image_PET\nct/a.nii.gz,pet/a.nii.gz\n")
    (case,) = inspect_dataset(open_dataset(tmp_path / "list.csv")).cases
    assert [found.channel for found in case.intensity] == ["PET"]
    assert len(case.problems) == 1


def test_true_and_false(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = mask() > 0
    report = inspect_volume(tmp_path / "a.h5")
    assert report.dtype == "bool"
    assert report.problems == ["The header has no voxel size, and 1 mm is taken."]
