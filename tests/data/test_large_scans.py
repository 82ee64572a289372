"""Large scans are planned for without being loaded."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import ctseg
from ctseg.config import parse_config
from ctseg.data.load import load_image
from ctseg.engine.training.prepare import prepare
from ctseg.engine.training.validate import score
from ctseg.errors import BadInput, CtsegError
from ctseg.planning.fingerprint import fingerprint
from ctseg.planning.task import find_task
from ctseg.specs import Case, DataSet, ImageRef, Label, Task
from ctseg.task import classes_task
from ctseg.volume.volume import Volume

TASK = classes_task({"fibre": 1, "pore": 2}, ignore=9)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    label = np.zeros((60, 64, 70), np.uint8)
    label[5:50, 10:40, 8:60] = 1
    label[20:30, 20:30, 20:30] = 2
    label[55] = 9
    raw = (np.array([100, 900, 300] + [0] * 7)[label] + rng.normal(0, 40, label.shape)).astype(
        np.float32
    )
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        file.create_dataset("raw", data=raw, chunks=(16, 16, 16))
        file.create_dataset("label", data=label, chunks=(16, 16, 16))
    return tmp_path / "volume.h5"


def case_of(volume: Path) -> Case:
    return Case("v", (ImageRef(volume),), ImageRef(volume, {"dataset": "/label"}))


def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("loaded as a whole")

    monkeypatch.setattr("ctseg.data.large_scans.LARGE_VOXELS", 1000)
    monkeypatch.setattr("ctseg.data.lazy_survey.READ_BYTES", 100_000)
    for place in (
        "planning.fingerprint.load_image",
        "planning.fingerprint.load_label",
        "data.store.load_image",
    ):
        monkeypatch.setattr(f"ctseg.{place}", refuse)


def test_a_glance_sees_what_a_look_at_all_sees(volume, monkeypatch):
    whole = fingerprint([case_of(volume)], TASK)
    no_loading(monkeypatch)
    part = fingerprint([case_of(volume)], TASK)
    assert part.volumes_ml == whole.volumes_ml
    assert part.shapes_zyx == whole.shapes_zyx
    assert part.spacings_zyx == whole.spacings_zyx
    for key, value in whole.foreground[0].items():
        assert part.foreground[0][key] == pytest.approx(value, abs=30), key


def test_a_label_of_value_0_is_counted(volume, monkeypatch):
    """As where the pores of a binary scan are asked for, and the rest is the background."""
    rest, pores = Label("rest", (1, 2), 1), Label("pores", (0,), 0)
    task = Task("classes", (rest, pores), ignore=9)
    whole = fingerprint([case_of(volume)], task)
    no_loading(monkeypatch)
    assert fingerprint([case_of(volume)], task).volumes_ml == whole.volumes_ml


def test_overlapping_regions_are_counted(volume, monkeypatch):
    task = Task("channels", (Label("all", (1, 2), 1), Label("pore", (2,), 2)), ignore=9)
    whole = fingerprint([case_of(volume)], task)
    no_loading(monkeypatch)
    assert fingerprint([case_of(volume)], task).volumes_ml == whole.volumes_ml


def test_values_of_a_large_label_are_found(volume, monkeypatch):
    dataset = DataSet("v", volume, "hdf5", (case_of(volume),))
    whole = find_task(dataset, dataset.cases, ignore=9)
    no_loading(monkeypatch)
    assert find_task(dataset, dataset.cases, ignore=9) == whole
    with pytest.raises(BadInput, match="label value 9"):
        fingerprint([case_of(volume)], classes_task({"fibre": 1, "pore": 2}))


def test_one_large_volume_is_planned_and_prepared_in_parts(volume, monkeypatch):
    no_loading(monkeypatch)
    monkeypatch.setattr("ctseg.data.store.LARGE_BYTES", 1000)
    config = parse_config(
        {
            "data": {"path": str(volume), "val_slices": "40:"},
            "task": {"ignore": 9},
            "train": {"device": "cpu"},
        }
    )
    _, cases = prepare(config.model_copy(update={"preprocess": config.preprocess.model_copy(
        update={"spacing_xyz": (0.0, 0.0, 0.0)})}))  # fmt: skip
    assert [case.lazy for case in cases] == [True, True]
    assert [case.image.shape for case in cases] == [(1, 40, 64, 70), (1, 20, 64, 70)]


def test_a_label_deleted_during_training_is_named_at_validation(volume, tmp_path):
    """The prepared scan is predicted; its label is read from the data set, and is gone."""
    array = np.zeros((4, 5, 6), np.uint8)
    for name in ("scan.nii", "label.nii"):
        ctseg.write(Volume.from_array(array), tmp_path / name)
    case = Case("patient_7", (ImageRef(tmp_path / "scan.nii"),), ImageRef(tmp_path / "label.nii"))
    prediction = load_image(case)
    (tmp_path / "label.nii").unlink()
    with pytest.raises(CtsegError, match=r"Case patient_7: .*label\.nii does not exist"):
        score(TASK, case, Volume(prediction.array[0], prediction.geometry))
