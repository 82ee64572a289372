"""Tasks of data sets and run files that are not as they usually are."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest

from ctseg.config import TaskConfig
from ctseg.errors import BadInput, ConfigError, UnknownName
from ctseg.planning.fingerprint import fingerprint
from ctseg.planning.task import find_task, task_of
from ctseg.specs import Case, DataSet, ImageRef, Label, Task
from ctseg.task import classes_task

TASK = classes_task({"organ": 1})


def test_voxels_that_nobody_labelled_are_no_foreground(tmp_path):
    label = np.zeros((2, 4, 5, 6), np.uint8)
    label[0, 1], label[1, 2], label[:, 3] = 1, 1, 255
    scan = np.where((label == 1).any(0), 7.0, 1000.0).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["label"] = scan, label
    refs = [ImageRef(tmp_path / "a.h5", {"dataset": name}) for name in ("/raw", "/label")]
    labels = (Label("one", (1,), 1), Label("two", (2,), 2))
    task = Task("channels", labels, ignore=255, stacked=True)
    found = fingerprint([Case("a", (refs[0],), refs[1])], task)
    assert found.foreground[0]["mean"] == 7
    assert found.volumes_ml == pytest.approx({"one": 30 / 1000, "two": 30 / 1000})


def label(name: str, *values: int) -> dict:
    return {"name": name, "values": values, "value": max(values)}


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ({"labels": [label("liver", 1), label("lesion", 2)]}, "'liver', the first of them"),
        ({"labels": [label("air", 0), label("a", 1, 2), label("b", 2)]}, "The value 2 belongs to"),
        ({"labels": [label("air", 0), label("a", 1), label("a", 2)]}, "two labels of the name 'a'"),
        ({"kind": "channels"}, "names the channels"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(task, complaint, tmp_path):
    with pytest.raises(ConfigError, match=complaint) as caught:
        task_of(TaskConfig.model_validate(task), DataSet("set", tmp_path, "test", (), task=TASK))
    assert caught.value.hint


@pytest.mark.parametrize(
    "task",
    [
        {"labels": [label("solid", 1), label("pore", 0)]},
        {"labels": [label("a", 1), label("b", 2)], "ignore": 0},
        {"kind": "channels", "labels": [label("whole", 1, 2), label("core", 2)]},
    ],
)
def test_labels_that_can_be_meant_are_taken(task, tmp_path):
    found = task_of(TaskConfig.model_validate(task), DataSet("set", tmp_path, "test", ()))
    assert [item.name for item in found.labels] == [item["name"] for item in task["labels"]]


@pytest.mark.parametrize("labels", [[], [label("air", 0), label("left", 1), label("right", 2)]])
def test_a_misspelt_name_of_a_mirror_pair_is_refused(labels, tmp_path):
    known = classes_task({"left": 1, "right": 2})
    dataset = DataSet("set", tmp_path, "test", (), task=known)
    task = TaskConfig.model_validate({"labels": labels, "mirror_pairs": [["left", "rigth"]]})
    with pytest.raises(UnknownName, match=r"'rigth'.*'right'"):
        task_of(task, dataset)
    task = task.model_copy(update={"mirror_pairs": (("left", "right"),)})
    assert task_of(task, dataset).mirror_pairs == (("left", "right"),)


def test_a_pair_of_a_reader_counts_where_the_data_set_has_both_labels(tmp_path):
    pairs = (("left", "right"), ("left", "middle"))
    known = dataclasses.replace(classes_task({"left": 1, "right": 2}), mirror_pairs=pairs)
    dataset = DataSet("set", tmp_path, "test", (), task=known)
    assert task_of(None, dataset).mirror_pairs == pairs[:1]


def test_who_marks_unlabelled_voxels_by_minus_one_is_told_how(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["label"] = np.array([[[0, 1, -1]]], np.int16)
    ref = ImageRef(tmp_path / "a.h5", {"dataset": "/label"})
    dataset = DataSet("set", tmp_path, "test", (Case("a", (ref,), ref),))
    with pytest.raises(BadInput) as caught:
        find_task(dataset, dataset.cases)
    assert "task.ignore=-1" in (caught.value.hint or "")
    assert [item.values for item in find_task(dataset, dataset.cases, ignore=-1).labels] == [
        (0,), (1,)
    ]  # fmt: skip
