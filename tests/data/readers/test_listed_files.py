"""Descriptions of data sets that name no files, or files elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput

IMAGE, LABEL = "imagesTr/a_0000.nii", "labelsTr/a.nii"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (IMAGE, LABEL):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), path)
    return tmp_path / "set"


def describe(folder: Path, layout: str, image: Any, label: Any = LABEL) -> None:
    labels = {"background": 0, "a": 1}
    content: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "file_ending": ".nii",
    }
    if layout == "nnunet":
        content["dataset"] = {"a": {"images": [image], "label": label}}
    else:
        content["training"] = [{"image": image, "label": label}]
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize("layout", ["nnunet", "decathlon"])
@pytest.mark.parametrize("name", [5, 1.5, True, {"a": 1}, "a\0b", "  "])
def test_a_name_that_is_no_path(folder, layout, name):
    describe(folder, layout, name)
    with pytest.raises(BadInput, match="where the path of a file is expected") as found:
        open_dataset(folder)
    assert "dataset.json" in found.value.message
    describe(folder, layout, IMAGE, name)
    with pytest.raises(BadInput, match="where the path of a file is expected"):
        open_dataset(folder)


@pytest.mark.parametrize("layout", ["nnunet", "decathlon"])
def test_files_elsewhere_are_read_only_where_that_is_allowed(folder, layout):
    elsewhere = folder.parent / "secret.nii"
    elsewhere.write_bytes((folder / IMAGE).read_bytes())
    for name in (str(elsewhere), "../secret.nii", "imagesTr/../../secret.nii"):
        describe(folder, layout, name)
        with pytest.raises(BadInput, match="outside the folder of the data set") as found:
            open_dataset(folder)
        assert "--option outside=yes" in str(found.value)
        (case,) = open_dataset(folder, outside="yes").cases
        assert case.images[0].path.resolve() == elsewhere.resolve()
    describe(folder, layout, f"./labelsTr/../{IMAGE}")
    assert len(open_dataset(folder).cases) == 1


def test_lists_name_files_anywhere(folder):
    (folder.parent / "list.csv").write_text(f"image,label\n{folder / IMAGE},set/{LABEL}\n")
    assert len(open_dataset(folder.parent / "list.csv").cases) == 1


@pytest.mark.parametrize("side", [None, 5, "a", {"a": 1}])
def test_folds_that_are_no_lists(folder, side):
    describe(folder, "decathlon", IMAGE)
    (folder / "splits.json").write_text(json.dumps([{"train": side, "val": ["a"]}]))
    with pytest.raises(BadInput, match=r"splits\.json.*should be lists"):
        open_dataset(folder)
