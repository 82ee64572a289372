"""Medical Segmentation Decathlon folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput, CtsegError, FileProblem
from ctseg.volume.io import read_images


def change(folder: Path, **fields: Any) -> Path:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def test_everything_that_the_files_say(decathlon: Path) -> None:
    found = open_dataset(decathlon)
    assert (found.reader, found.name, found.licence) == ("decathlon", "Abdomen", "CC0")
    assert (found.description, found.reference) == ("two organs", "nobody")
    assert [case.id for case in found.cases] == ["a", "b"]
    assert [case.id for case in found.unlabelled] == ["c", "z"]
    assert all(case.label is None for case in found.unlabelled)
    assert found.cases[0].images[0].path == decathlon / "imagesTr" / "a.nii.gz"
    assert found.cases[0].label is not None
    assert found.cases[0].label.path == decathlon / "labelsTr" / "a.nii.gz"
    assert found.channels == ("CT",)
    assert found.splits == ((("a",), ("b",)), (("b",), ("a",)))
    assert found.task is not None
    assert [(item.name, item.value) for item in found.task.labels] == [
        ("background", 0), ("left kidney", 1), ("right kidney", 2),
    ]  # fmt: skip
    assert found.task.mirror_pairs == (("left kidney", "right kidney"),)
    assert open_dataset(decathlon / "dataset.json").cases == found.cases


def test_several_modalities_are_channels_of_one_file(
    decathlon: Path, save: Callable[..., Path]
) -> None:
    for name in ("a", "b", "c"):
        save(decathlon / "imagesTr" / f"{name}.nii.gz", 3, "int16", 2)
    found = open_dataset(change(decathlon, modality={"1": "T2", "0": "FLAIR"}))
    assert found.channels == ("FLAIR", "T2")
    assert found.cases[0].images[0].options == {"channels": "last"}
    image = read_images(found.cases[0].images)
    assert image.array.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(image.array, 3)


def test_labels_the_other_way_round(decathlon: Path) -> None:
    task = open_dataset(change(decathlon, labels={"background": 0, "liver": 7})).task
    assert task is not None
    assert [(item.name, item.values) for item in task.labels] == [
        ("background", (0,)),
        ("liver", (7,)),
    ]


def test_without_labels_the_task_is_left_open(decathlon: Path) -> None:
    assert open_dataset(change(decathlon, labels={})).task is None


def test_missing_files_are_listed(decathlon: Path) -> None:
    (decathlon / "imagesTr" / "a.nii.gz").unlink()
    (decathlon / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(FileProblem, match="2 files that do not exist") as found:
        open_dataset(decathlon)
    assert "imagesTr/a.nii.gz" in found.value.message
    assert "labelsTr/b.nii.gz" in found.value.message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"training": []}, "data set is empty"),
        ({"training": [{"label": "x"}]}, "names no image"),
        ({"modality": {"1": "CT"}}, "count from 0"),
        ({"modality": ["CT"]}, "modality"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "declared twice"),
        ({"labels": ["background"]}, "labels"),
        ({"labels": {"one": "two"}}, "no number"),
        ({"labels": {"9" * 5000: "liver"}}, "no number"),
        ({"labels": {"\u00b2": "liver"}}, "no number"),
        ({"training": [{"image": 7}]}, "names 7 where the path"),
        ({"training": [{"image": "imagesTr/a.nii.gz", "label": ["x"]}]}, "path of a file"),
        ({"test": 0.5}, "list of images"),
    ],
)
def test_what_makes_no_sense(decathlon: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as found:
        open_dataset(change(decathlon, **fields))
    assert "dataset.json" in found.value.message


def test_doubled_ids(decathlon: Path, save: Callable[..., Path]) -> None:
    save(decathlon / "other" / "a.nii.gz")
    entries = [
        {"image": f"{folder}/a.nii.gz", "label": "labelsTr/a.nii.gz"}
        for folder in ("imagesTr", "other")
    ]
    with pytest.raises(BadInput, match="several cases of the same name: a"):
        open_dataset(change(decathlon, training=entries))


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([{"train": ["a"], "val": ["x"]}], "has not: x"),
        ([{"train": ["a", "b"], "val": ["b"]}], "b on both sides"),
        ([{"train": ["a"], "val": []}], "empty side"),
        ([["a"], ["b"]], "no object"),
        ([{"train": 5, "val": ["a"]}], "should be lists"),
        ([{"train": {"a": 1}, "val": ["b"]}], "should be lists"),
    ],
)
def test_folds_that_make_no_sense(decathlon: Path, splits: Any, message: str) -> None:
    (decathlon / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(BadInput, match=message):
        open_dataset(decathlon)


def test_json_that_is_nested_without_end(decathlon: Path) -> None:
    file = decathlon / "dataset.json"
    file.write_text('{"name": ' + "[" * 100_000)
    with pytest.raises(
        CtsegError, match=r"dataset\.json is no valid JSON: it is nested too deeply"
    ):
        open_dataset(decathlon)


def test_broken_json_names_the_line(decathlon: Path) -> None:
    (decathlon / "dataset.json").write_text('{\n "name": "x",\n}')
    with pytest.raises(CtsegError, match="line 3"):
        open_dataset(decathlon)


@pytest.mark.real_data
def test_real_folder(real_data: Path) -> None:
    found = open_dataset(real_data / "sts_ct")
    assert (len(found.cases), len(found.splits), found.channels) == (40, 5, ("CT",))
    assert found.licence == "CC BY 3.0"


def test_channels_named_as_nnunet_does(decathlon: Path) -> None:
    """Else an MR would be taken for a CT, and clipped as one."""
    file = decathlon / "dataset.json"
    content = json.loads(file.read_text())
    del content["modality"]
    file.write_text(json.dumps(content | {"channel_names": {"0": "T2"}}))
    assert open_dataset(decathlon).channels == ("T2",)
