"""nnU-Net raw folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label
from ctseg.volume.io import read_images


def change(folder: Path, **fields: Any) -> Path:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def test_cases_channels_and_labels(nnunet: Path) -> None:
    found = open_dataset(nnunet)
    assert found.reader == "nnunet"
    assert [case.id for case in found.cases] == ["liver_01", "liver_02"]
    assert [case.id for case in found.unlabelled] == ["new"]
    assert found.channels == ("CT", "PET")
    image = read_images(found.cases[0].images)
    assert image.array[:, 0, 0, 0].tolist() == [0, 1]
    assert found.task is not None
    assert found.task.kind == "classes"
    assert [item.value for item in found.task.labels] == [0, 1, 2]


def test_ignore_label(nnunet: Path) -> None:
    task = open_dataset(change(nnunet, labels={"background": 0, "liver": 1, "ignore": 2})).task
    assert task is not None
    assert task.ignore == 2
    assert [item.name for item in task.labels] == ["background", "liver"]


def test_regions_become_ordered_channels(nnunet: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    task = open_dataset(change(nnunet, labels=labels, regions_class_order=[1, 2, 3])).task
    assert task is not None
    assert task.kind == "channels"
    assert task.ignore == 4
    assert task.labels == (
        Label("whole", (1, 2, 3), 1), Label("core", (2, 3), 2), Label("enhancing", (3,), 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions_class_order"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "same value"),
        ({"labels": {"background": 0, "a": "1"}}, "no number"),
        ({"labels": {}}, "labels"),
        ({"channel_names": {"0": "CT", "1": "PET", "2": "MR"}}, "_0002.nrrd"),
        ({"file_ending": ".mha"}, "data set is empty"),
    ],
)
def test_what_makes_no_sense(nnunet: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        open_dataset(change(nnunet, **fields))


def test_a_label_without_an_image(nnunet: Path) -> None:
    for channel in ("0000", "0001"):
        (nnunet / "imagesTr" / f"liver_02_{channel}.nrrd").unlink()
    with pytest.raises(FileProblem, match="liver_02_0000"):
        open_dataset(nnunet)


def test_an_image_without_a_label_is_unlabelled(nnunet: Path) -> None:
    (nnunet / "labelsTr" / "liver_02.nrrd").unlink()
    found = open_dataset(nnunet)
    assert [case.id for case in found.cases] == ["liver_01"]
    assert [case.id for case in found.unlabelled] == ["liver_02", "new"]


def test_an_image_without_a_channel_number(nnunet: Path) -> None:
    (nnunet / "imagesTr" / "liver_01_0000.nrrd").rename(nnunet / "imagesTr" / "liver_01.nrrd")
    with pytest.raises(FileProblem, match="no channel number"):
        open_dataset(nnunet)


def test_cases_listed_in_the_json(nnunet: Path) -> None:
    entry = {
        "images": ["imagesTr/liver_01_0000.nrrd", "imagesTr/liver_01_0001.nrrd"],
        "label": "labelsTr/liver_01.nrrd",
    }
    found = open_dataset(change(nnunet, dataset={"first": entry}))
    assert [case.id for case in found.cases] == ["first"]
    with pytest.raises(BadInput, match="2 images"):
        open_dataset(change(nnunet, dataset={"first": entry | {"images": ["a.nrrd"]}}))
    with pytest.raises(FileProblem, match=r"gone\.nrrd"):
        open_dataset(change(nnunet, dataset={"first": entry | {"label": "gone.nrrd"}}))


def test_folds_as_nnunet_names_them(nnunet: Path) -> None:
    folds = [{"train": ["liver_01"], "val": ["liver_02"]}]
    (nnunet / "splits_final.json").write_text(json.dumps(folds))
    assert open_dataset(nnunet).splits == ((("liver_01",), ("liver_02",)),)


@pytest.mark.real_data
def test_real_folder(real_data: Path) -> None:
    found = open_dataset(real_data / "Dataset004_Hippocampus")
    assert (found.name, len(found.cases), len(found.splits)) == ("Hippocampus", 220, 5)
    assert found.cases[0].id == "hippocampus_003"
