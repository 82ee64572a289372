"""HDF5 data sets: a file, a folder, a glob."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import DataSet
from ctseg.volume.io import open_ref, read_images

RAW = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)


def make(path: Path, **datasets: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
        file.attrs["spacing_xyz"] = (1.0, 2.0, 3.0)
    return path


def test_one_file_is_one_case(tmp_path: Path) -> None:
    path = make(tmp_path / "weave.h5", raw=RAW, label=RAW % 3)
    found = open_dataset(path)
    assert (found.reader, found.name, found.channels, found.task) == (
        "hdf5",
        "weave",
        ("raw",),
        None,
    )
    (case,) = found.cases
    assert case.id == "weave"
    np.testing.assert_array_equal(read_images(case.images).array, RAW[None])
    assert case.label is not None
    label = open_ref(case.label)
    np.testing.assert_array_equal(label.read(), RAW[None] % 3)
    assert label.geometry.spacing_xyz == (1, 2, 3)
    label.close()


def test_folder_and_glob(tmp_path: Path) -> None:
    for name in ("b.h5", "a.hdf5"):
        make(tmp_path / "set" / name, raw=RAW, label=RAW % 2)
    make(tmp_path / "set" / "c.h5", raw=RAW)
    (tmp_path / "set" / "splits.json").write_text('[{"train": ["a"], "val": ["b"]}]')
    folder = open_dataset(tmp_path / "set")
    assert [case.id for case in folder.cases] == ["a", "b"]
    assert [case.id for case in folder.unlabelled] == ["c"]
    assert folder.splits == ((("a",), ("b",)),)
    assert [case.id for case in open_dataset(tmp_path / "set" / "[ab].h*").cases] == ["a", "b"]


def test_other_names_and_weights(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", scan=RAW, mask=RAW % 2, weights=np.ones(RAW.shape, np.float32))
    with pytest.raises(FileProblem, match="no volume /raw") as raised:
        open_dataset(path)
    assert "/scan" in str(raised.value.hint)
    (case,) = open_dataset(path, raw="scan", label="/mask", weight="weights").cases
    assert case.weight is not None
    assert case.weight.options["dataset"] == "/weights"
    with pytest.raises(FileProblem, match="no volume missing"):
        open_dataset(path, raw="scan", label="mask", weight="missing")
    with pytest.raises(BadInput, match="no option 'rew'"):
        open_dataset(path, rew="scan")


def task_of(found: DataSet) -> list[tuple[str, int]]:
    assert found.task is not None
    return [(label.name, label.value) for label in found.task.labels]


def test_names_of_labels(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", raw=RAW, label=RAW % 3)
    with h5py.File(path, "a") as file:
        file["label"].attrs["labels"] = json.dumps({"void": 0, "warp": 1, "weft": 2})
    assert task_of(open_dataset(path)) == [("void", 0), ("warp", 1), ("weft", 2)]
    with h5py.File(path, "a") as file:
        file["label"].attrs["labels"] = ["void", "tow"]
    assert task_of(open_dataset(path)) == [("void", 0), ("tow", 1)]
    with h5py.File(path, "a") as file:
        file["label"].attrs["labels"] = '{"void": "zero"}'
    with pytest.raises(BadInput, match="labels"):
        open_dataset(path)


def test_stacked_channels(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", raw=np.stack([RAW, RAW]), label=np.stack([RAW % 2] * 3))
    found = open_dataset(path)
    assert found.channels == ("raw_0", "raw_1")
    assert task_of(found) == [("channel_0", 1), ("channel_1", 2), ("channel_2", 3)]
    assert found.task is not None
    assert found.task.stacked
    assert found.task.kind == "channels"
    with h5py.File(path, "a") as file:
        file["raw"].attrs["channels"] = '["CT", "PET"]'
    assert open_dataset(path).channels == ("CT", "PET")


def test_files_that_differ(tmp_path: Path) -> None:
    make(tmp_path / "set" / "a.h5", raw=RAW, label=RAW % 2)
    make(tmp_path / "set" / "b.h5", raw=np.stack([RAW, RAW]), label=RAW % 2)
    with pytest.raises(BadInput, match="differ in their channels"):
        open_dataset(tmp_path / "set")
    make(tmp_path / "set" / "b.h5", raw=RAW, label=np.stack([RAW % 2] * 2))
    with pytest.raises(BadInput, match="differ in their labels"):
        open_dataset(tmp_path / "set")


def test_damaged_and_absent_files(tmp_path: Path) -> None:
    make(tmp_path / "set" / "a.h5", raw=RAW, label=RAW % 2)
    (tmp_path / "set" / "b.h5").write_bytes(b"no HDF5")
    with pytest.raises(FileProblem, match=r"b\.h5"):
        open_dataset(tmp_path / "set")
    with pytest.raises(FileProblem, match="data set is empty"):
        open_dataset(tmp_path / "set" / "x*.h5", reader="hdf5")


def test_label_maps_alone_are_no_data_set(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", label=RAW)
    with pytest.raises(BadInput, match="no data set"):
        open_dataset(path)


def test_sides_are_told_by_their_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = np.zeros((3, 4, 5), np.uint8)
        file["label"] = np.ones((3, 4, 5), np.uint8)
        file["label"].attrs["labels"] = json.dumps({"left lung": 1, "right lung": 2})
    task = open_dataset(tmp_path / "a.h5").task
    assert task is not None
    assert set(task.mirror_pairs) == {("left lung", "right lung")}
