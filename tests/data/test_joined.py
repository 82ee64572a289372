"""Several data sets as one, and cases in which not every label was drawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctseg
from ctseg.config import DataConfig, TaskConfig
from ctseg.data.joined import dataset_of, joined
from ctseg.data.large_scans import sample_large_case
from ctseg.data.load import load_image, load_label
from ctseg.data.pipeline import Pipeline
from ctseg.data.readers.find import open_dataset
from ctseg.data.splits import split
from ctseg.data.store import Store
from ctseg.errors import BadInput, UnknownName
from ctseg.planning.task import task_of
from ctseg.task import encode, undrawn


def write_set(
    folder: Path, name: str, labels: dict[str, str], values: list[int], **more: Any
) -> Path:
    """A Decathlon folder of four cases; case n is a block of noise with boxes of these values."""
    training = []
    for number in range(4):
        rng = np.random.default_rng(number)
        label = np.zeros((8, 10, 12), np.uint8)
        for i, value in enumerate(values):
            label[1:6, 1 + 4 * i : 4 + 4 * i, 2:9] = value
        scan = (label * 100 + rng.normal(0, 10, label.shape)).astype(np.int16)
        for kind, array in (("imagesTr", scan), ("labelsTr", label)):
            path = folder / kind / f"case_{number}.nii"
            path.parent.mkdir(parents=True, exist_ok=True)
            ctseg.write(ctseg.Volume.from_array(array, spacing_xyz=(1, 1, 1)), path)
        file = f"case_{number}.nii"
        training.append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
    content = {
        "name": name,
        "licence": "CC0",
        "modality": {"0": "CT"},
        "labels": labels,
        "training": training,
    }
    (folder / "dataset.json").write_text(json.dumps(content | more))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """One with liver 1 and tumour 2, one with spleen 1 and liver 5."""
    one = write_set(tmp_path / "a", "A", {"0": "background", "1": "liver", "2": "tumour"}, [1, 2])
    other = write_set(tmp_path / "b", "B", {"0": "air", "1": "spleen", "5": "liver"}, [1, 5])
    return one, other


def test_labels_are_joined_by_name(two):
    dataset = dataset_of(DataConfig(path=str(two[0]), also=(str(two[1]),)))
    task = dataset.task
    assert [(label.name, label.value) for label in task.labels] == [
        ("background", 0), ("liver", 1), ("tumour", 2), ("spleen", 3),
    ]  # fmt: skip
    assert sorted(case.id for case in dataset.cases) == [
        f"{s}_case_{n}" for s in "AB" for n in range(4)
    ]
    for case in dataset.cases:
        label = load_label(case, task, load_image(case)).array
        stored = ctseg.read(case.label.path).array
        table = {"A": {0: 0, 1: 1, 2: 2}, "B": {0: 0, 1: 3, 5: 1}}[case.id[0]]
        expected = np.vectorize(table.get)(stored)
        assert np.array_equal(encode(task, label), expected)
        assert undrawn(task, case.drawn) == {"A": (3,), "B": (2,)}[case.id[0]]


def test_the_store_holds_joined_targets(two, tmp_path):
    dataset = joined([open_dataset(path) for path in two])
    store = Store(Pipeline(()), dataset.task, tmp_path / "store")
    for ready, case in zip(store.prepare(dataset.cases), dataset.cases, strict=True):
        counts = {value: int((np.asarray(ready.target) == value).sum()) for value in range(4)}
        assert counts[1] and bool(counts[3]) == (case.id[0] == "B") == (not counts[2])
        assert ready.undrawn == undrawn(dataset.task, case.drawn)
        assert set(ready.labels) == {number for number in (1, 2, 3) if counts[number]}


def test_no_case_trains_and_validates(two):
    dataset = joined([open_dataset(path) for path in two], folds=3)
    ids = {case.id for case in dataset.cases}
    assert len(dataset.splits) == 3
    for train, val in dataset.splits:
        assert set(train) | set(val) == ids and not set(train) & set(val)
    validating = [case for _, val in dataset.splits for case in val]
    assert sorted(validating) == sorted(ids)


def test_a_data_set_of_fewer_folds_only_trains_in_the_others(two):
    one, other = (open_dataset(path) for path in two)
    for part in (other.cases[:2], other.cases[:3]):
        dataset = joined([one, replace(other, cases=part)], folds=4)
        ids = {case.id for case in dataset.cases}
        assert len(dataset.splits) == 4
        assert sorted(case for _, val in dataset.splits for case in val) == sorted(ids)
        for train, val in dataset.splits:
            assert set(train) | set(val) == ids and not set(train) & set(val)


def test_cases_that_a_data_set_keeps_out_of_its_folds_never_train(two):
    one, other = (open_dataset(path) for path in two)
    other = replace(other, splits=((("case_0", "case_1"), ("case_2",)),))
    for number, (train, val) in enumerate(joined([one, other], folds=4).splits):
        assert ("B_case_2" in val, "B_case_2" in train) == (number == 0, number > 0)
        assert "B_case_3" not in (*train, *val)


@pytest.mark.parametrize("one_patient", [False, True])
def test_a_data_set_of_one_patient_trains_in_every_fold(two, one_patient):
    """Nothing of it may validate, but the other one has enough."""
    one, other = (open_dataset(path) for path in two)
    cases = one.cases[:3] if one_patient else one.cases[:1]
    small = replace(one, cases=tuple(replace(case, group="p") for case in cases))
    dataset = joined([small, other], folds=4)
    always = {f"A_{case.id}" for case in cases}
    assert len(dataset.splits) == 4
    for train, val in dataset.splits:
        assert always <= set(train)
        assert len(val) == 1 and val[0] not in train
        assert {*train, *val} == {case.id for case in dataset.cases}


def test_data_sets_of_one_patient_each_are_dealt_out(two):
    parts = [replace(found, cases=found.cases[:1]) for found in map(open_dataset, two)]
    parts[1] = replace(parts[1], cases=(replace(parts[1].cases[0], id="other"),))
    config = DataConfig(path=str(two[0]))
    train, val = split(joined(parts), config, {})
    assert {case.id for case in (*train, *val)} == {"case_0", "other"}
    assert len(train) == len(val) == 1


def test_the_same_labels_are_drawn_in_all_cases(two, tmp_path):
    again = shutil.copytree(two[0], tmp_path / "c")
    dataset = joined([open_dataset(two[0]), open_dataset(again)])
    assert dataset.name == "A1 + A2"
    assert all(case.drawn is None for case in dataset.cases)


def test_lazily_read_targets_are_joined_too(two, tmp_path):
    dataset = joined([open_dataset(path) for path in two])
    copied, lazy = (
        Store(Pipeline(()), dataset.task, tmp_path / mode, mode=mode).prepare(dataset.cases)
        for mode in ("store", "lazy")
    )
    for one, two_ in zip(copied, lazy, strict=True):
        assert np.array_equal(np.asarray(one.target), np.asarray(two_.target[:, :, :, :]))
        assert one.undrawn == two_.undrawn


@pytest.mark.parametrize("mode", ["store", "lazy"])
def test_a_run_file_may_name_the_labels_in_another_order(two, tmp_path, mode):
    dataset = joined([open_dataset(path) for path in two])
    background, *labels = dataset.task.labels
    config = TaskConfig.of(replace(dataset.task, labels=(background, *labels[::-1])))
    task = task_of(config, dataset)
    assert [label.name for label in task.foreground] == ["spleen", "tumour", "liver"]
    store = Store(Pipeline(()), task, tmp_path / "store", mode=mode)
    for ready, case in zip(store.prepare(dataset.cases), dataset.cases, strict=True):
        stored = ctseg.read(case.label.path).array
        index = {"A": {0: 0, 1: 3, 2: 2}, "B": {0: 0, 1: 1, 5: 3}}[case.id[0]]
        expected = np.vectorize(index.get)(stored)
        assert np.array_equal(np.asarray(ready.target)[0], expected)
        assert np.array_equal(
            encode(task, load_label(case, task, load_image(case)).array), expected
        )
        counts = [int((expected == number).sum()) for number in (1, 2, 3)]
        assert list(sample_large_case(case, task, 100).voxels) == counts
        assert set(ready.labels) == {number for number in (1, 2, 3) if counts[number - 1]}
        assert ready.undrawn == {"A": (1,), "B": (2,)}[case.id[0]]


@pytest.mark.parametrize("mode", ["store", "lazy"])
def test_a_run_file_may_leave_out_a_label_that_no_file_holds(two, tmp_path, mode):
    names = {"0": "air", "1": "spleen", "5": "liver", "7": "kidney"}
    other = write_set(tmp_path / "c", "C", names, [1, 5])
    dataset = joined([open_dataset(two[0]), open_dataset(other)])

    def without(name: str) -> Store:
        labels = tuple(label for label in dataset.task.labels if label.name != name)
        task = task_of(TaskConfig.of(replace(dataset.task, labels=labels)), dataset)
        return Store(Pipeline(()), task, tmp_path / "store", mode=mode)

    prepared = without("kidney").prepare(dataset.cases)
    assert [case.undrawn for case in prepared] == [(3,)] * 4 + [(2,)] * 4
    with pytest.raises(BadInput, match="holds the label value 1, but the task knows 0, 5"):
        without("spleen").prepare(dataset.cases)


def test_a_drawn_label_under_another_name_is_refused(two):
    dataset = joined([open_dataset(path) for path in two])
    background, liver, *others = dataset.task.labels
    labels = (background, replace(liver, name="hepar"), *others)
    with pytest.raises(UnknownName, match="liver"):
        task_of(TaskConfig.of(replace(dataset.task, labels=labels)), dataset)


@pytest.mark.parametrize("ignored", [-1, 5])
def test_ignored_voxels_of_joined_data_sets_count_nowhere(two, ignored):
    """The labels are of eight bits without a sign, and -1 is in none of them."""
    one, other = (open_dataset(path) for path in two)
    background, spleen, _ = other.task.labels
    task = replace(other.task, labels=(background, spleen), ignore=ignored)
    if ignored == -1:
        task = replace(other.task, ignore=-1)
    other = replace(other, task=task)
    dataset = joined([replace(one, task=replace(one.task, ignore=-1)), other])
    assert dataset.task.ignore == -1
    for case in dataset.cases:
        stored = ctseg.read(case.label.path).array
        found = encode(dataset.task, load_label(case, dataset.task, load_image(case)).array)
        hidden = (stored == 5) & (ignored == 5)
        assert np.array_equal(found == -1, hidden)
        assert np.array_equal(found > 0, (stored > 0) & ~hidden)


def test_ignored_voxels_are_refused_by_a_run_file_without_an_ignore_value(two):
    one, other = (open_dataset(path) for path in two)
    background, spleen, _ = other.task.labels
    task = replace(other.task, labels=(background, spleen), ignore=5)
    dataset = joined([one, replace(other, task=task)])
    task = replace(dataset.task, ignore=None)
    case = dataset.cases[-1]
    with pytest.raises(BadInput, match="holds the label value 5"):
        load_label(case, task, load_image(case))


def test_data_sets_that_do_not_belong_together_are_refused(two, tmp_path):
    one = open_dataset(two[0])
    with pytest.raises(BadInput, match="has the channels CT"):
        joined([one, replace(open_dataset(two[1]), channels=("PET",))])
    with pytest.raises(BadInput, match="cannot be joined"):
        joined([one, replace(one, task=None)])
    with pytest.raises(BadInput, match="task classes"):
        joined([one, replace(one, task=replace(one.task, kind="channels"))])


# ---------------------------------------------------------------- labels drawn in each case


def test_a_file_beside_the_data_set_says_what_was_drawn(two):
    (two[0] / "labels.json").write_text(
        json.dumps({"case_1": ["liver"], "case_2": ["tumour", "liver"]})
    )
    drawn = {case.id: case.drawn for case in open_dataset(two[0]).cases}
    assert drawn == {
        "case_0": None, "case_1": ("liver",), "case_2": ("tumour", "liver"), "case_3": None,
    }  # fmt: skip


def test_an_entry_of_dataset_json_says_it_too(two):
    file = two[0] / "dataset.json"
    content = json.loads(file.read_text())
    content["training"][3]["labels"] = ["tumour"]
    file.write_text(json.dumps(content))
    assert open_dataset(two[0]).cases[3].drawn == ("tumour",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"case_9": ["liver"]}, "that the data set has not: case_9"),
        ({"case_1": "liver"}, "should list the labels"),
        ({"case_1": ["lever"]}, "lever"),
        ([], "holds a list"),
    ],
)
def test_a_damaged_list_is_refused(content, told, two):
    (two[0] / "labels.json").write_text(json.dumps(content))
    with pytest.raises((BadInput, UnknownName), match=told):
        open_dataset(two[0])


def test_labels_that_mirroring_swaps_count_together(two):
    task = replace(open_dataset(two[0]).task, mirror_pairs=(("liver", "tumour"),))
    assert undrawn(task, ["liver"]) == (1, 2)
    assert undrawn(task, ["liver", "tumour"]) == ()
