"""Lists of cases as CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctseg.config import RunConfig, TaskConfig, override, parse_config
from ctseg.data.inspection.dataset import inspect_dataset
from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput, FileProblem
from ctseg.planning.task import task_of
from ctseg.volume.io import write
from ctseg.volume.volume import Volume

Save = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path, save: Save) -> Path:
    for name in ("a", "b", "c"):
        for part in ("ct", "pet", "label", "weight"):
            save(tmp_path / part / f"{name}.nii.gz")
    return tmp_path


def test_csv(files: Path) -> None:
    file = files / "cases.csv"
    file.write_text(
        "ID;image_CT;image_PET;Label;weight;group;fold\n"
        "one;ct/a.nii.gz;pet/a.nii.gz;label/a.nii.gz;;p1;0\n"
        "two;ct/b.nii.gz;pet/b.nii.gz;label/b.nii.gz;weight/b.nii.gz;p2;1\n"
        "three;ct/c.nii.gz;pet/c.nii.gz;;;p2;\n",
        encoding="utf-8-sig",
    )
    dataset = open_dataset(file)
    assert dataset.reader == "list"
    assert dataset.channels == ("CT", "PET")
    assert [(c.id, c.group, c.weight is not None) for c in dataset.cases] == [
        ("one", "p1", False),
        ("two", "p2", True),
    ]
    assert [c.id for c in dataset.unlabelled] == ["three"]
    assert dataset.splits == ((("two",), ("one",)), (("one",), ("two",)))


def test_json(files: Path, save_json: Callable[[Path, Any], Path]) -> None:
    rows = [{"image": "ct/a.nii.gz", "label": "label/a.nii.gz", "mask": "weight/a.nii.gz"}]
    dataset = open_dataset(save_json(files / "list.json", rows))
    assert dataset.cases[0].id == "a"
    assert dataset.cases[0].mask is not None
    content = {
        "name": "Set",
        "channels": ["CT"],
        "labels": {"liver": 1},
        "ignore": 9,
        "cases": rows,
    }
    dataset = open_dataset(save_json(files / "list.json", content))
    assert (dataset.name, dataset.channels) == ("Set", ("CT",))
    assert dataset.task is not None
    assert dataset.task.ignore == 9
    assert inspect_dataset(dataset).cases[0].labels[0].name == "liver"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,lable\nct/a.nii.gz,x\n", "Did you mean 'label'"),
        ("image,label\n", "empty"),
        ("image,label\n,label/a.nii.gz\n", "lacks an image"),
        ("image,label\nct/a.nii.gz,label/a.nii.gz,x\n", "more fields"),
        ("image,label\nct/a.nii.gz,label/gone.nii.gz\n", "do"),
        ("image,fold\nct/a.nii.gz,1\n", ""),
        ("image,label,fold\nct/a.nii.gz,label/a.nii.gz,1\n", "all cases are in fold 1"),
        ("image,label\nct/a.nii.gz,label/a.nii.gz\nct/a.nii.gz,label/b.nii.gz\n", "same name"),
    ],
)
def test_lists_that_do_not_fit(files: Path, text: str, message: str) -> None:
    file = files / "cases.csv"
    file.write_text(text)
    if not message:  # an unlabelled case needs no fold
        assert open_dataset(file).unlabelled
        return
    with pytest.raises((BadInput, FileProblem), match=message):
        open_dataset(file)


def test_sparse_labels_train_on_what_was_drawn(tmp_path: Path) -> None:
    """Only some slices are drawn; the others hold the ignore value, which is no class."""
    label = np.full((4, 5, 6), 255, np.uint8)
    label[1] = 0
    label[1, :2] = 3
    write(Volume.from_array(np.zeros((4, 5, 6), np.int16)), tmp_path / "a.nii.gz")
    write(Volume.from_array(label), tmp_path / "a_label.nii.gz")
    (tmp_path / "list.csv").write_text("image,label\na.nii.gz,a_label.nii.gz\n")
    dataset = open_dataset(tmp_path / "list.csv", ignore=255)
    task = task_of(None, dataset)
    assert [label.values for label in task.labels] == [(0,), (3,)]
    assert task.ignore == 255
    config = override(RunConfig(), ["task.ignore=255"])
    assert task_of(config.task, open_dataset(tmp_path / "list.csv")) == task
    assert parse_config({"task": {"ignore": 255}}).task == TaskConfig(ignore=255)
    report = inspect_dataset(dataset)
    assert "no label value" not in " ".join(report.all_problems)
    assert [(size.name, size.voxels) for size in report.cases[0].labels] == [("value 3", 12)]


def test_a_patient_in_two_folds_is_refused(files: Path) -> None:
    file = files / "cases.csv"
    rows = ["image,label,group,fold", "ct/a.nii.gz,label/a.nii.gz,p1,0"]
    file.write_text("\n".join([*rows, "ct/b.nii.gz,label/b.nii.gz,p1,1"]))
    with pytest.raises(BadInput, match="groups p1 are in several folds"):
        open_dataset(file)
    file.write_text("\n".join([*rows, "ct/b.nii.gz,label/b.nii.gz,p2,1"]))
    assert len(open_dataset(file).splits) == 2
    file.write_text(file.read_text().replace("p1,0", "p1,2"))  # folds 1 and 2
    with pytest.raises(BadInput, match="counts from 0"):
        open_dataset(file)


def test_what_else_json_holds(files: Path, save_json: Callable[[Path, Any], Path]) -> None:
    rows = [{"id": 0, "image": "ct/a.nii.gz", "label": "label/a.nii.gz"}]
    content = {"channels": "CT", "labels": {"lobe, left": 1, "lobe, right": 2}, "cases": rows}
    dataset = open_dataset(save_json(files / "list.json", content))
    assert [case.id for case in dataset.cases] == ["0"]
    assert dataset.channels == ("CT",)
    assert dataset.task is not None
    assert dataset.task.mirror_pairs == (("lobe, left", "lobe, right"),)
    for wrong in ({"channels": {"0": "CT"}}, {"labels": ["liver"]}):
        with pytest.raises(BadInput, match="should be"):
            open_dataset(save_json(files / "list.json", content | wrong))
    with pytest.raises(BadInput, match="named twice"):
        open_dataset(save_json(files / "list.json", content), names="liver=1,liver=2")


def test_empty_columns_of_a_spreadsheet(files: Path) -> None:
    file = files / "cases.csv"
    file.write_text("image,label,\nct/a.nii.gz,label/a.nii.gz,\n")
    assert [case.id for case in open_dataset(file).cases] == ["a"]
    file.write_text("image,label,\nct/a.nii.gz,label/a.nii.gz,x\n")
    with pytest.raises(BadInput, match="unknown column ''"):
        open_dataset(file)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../x", "C:\\x", "..\\x", " "])
def test_ids_that_lead_out_of_the_output_are_refused(
    files: Path, save_json: Callable[[Path, Any], Path], name: str
) -> None:
    """The file of a prediction is named by it."""
    rows = [{"id": name, "image": "ct/a.nii.gz"}]
    with pytest.raises(BadInput, match="no names for files"):
        open_dataset(save_json(files / "list.json", rows))
    rows[0]["id"] = "p1/..a"
    assert open_dataset(save_json(files / "list.json", rows)).unlabelled[0].id == "p1/..a"


def test_a_field_without_end_is_no_case_list(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("image" + "x" * 200_000 + ",label\na.nii.gz,b.nii.gz\n")
    with pytest.raises(BadInput, match="no data set of a known layout"):
        open_dataset(table)
