"""Folders of DICOM studies as data sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from ctseg.data.inspection.dataset import inspect_dataset
from ctseg.data.load import load_image, load_label
from ctseg.data.readers.find import open_dataset
from ctseg.engine.prediction.inputs import find_items
from ctseg.errors import BadInput, FileProblem, UnknownName
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_volume

Make = Callable[..., Any]


@pytest.fixture
def studies(
    tmp_path: Path, geometry: Geometry, label: Any, make_series: Make, make_seg: Make
) -> Path:
    """Two patients with a SEG each, whose segments have other numbers, and one without."""
    for number, names in ((1, ("Liver", "Kidney", "GTV 1")), (2, ("gtv_old", "Hepar", "Kidney"))):
        where = tmp_path / f"p{number}"
        images = make_series(where / "ct", geometry, PatientID=f"P{number}")
        make_seg(where / "seg" / "seg.dcm", images, label, names=names)
    make_series(tmp_path / "p3" / "ct", geometry, PatientID="P3")
    return tmp_path


def test_labels_by_name(studies: Path, label: Any) -> None:
    dataset = open_dataset(studies, labels="liver=Liver|Hepar,tumour=GTV*", ignore="255")
    assert dataset.reader == "dicom_studies"
    assert dataset.channels == ("CT",)
    assert [(c.id, c.group) for c in dataset.cases] == [("p1", "P1"), ("p2", "P2")]
    assert [c.id for c in dataset.unlabelled] == ["p3"] or [c.id for c in dataset.unlabelled] == [
        "p3_ct"
    ]
    assert dataset.task is not None
    assert [item.name for item in dataset.task.labels] == ["background", "liver", "tumour"]
    for case, order in zip(dataset.cases, ((1, 3), (2, 1)), strict=True):
        found = load_label(case, dataset.task, load_image(case)).array
        for value, number in enumerate(order, start=1):
            np.testing.assert_array_equal(found == value, label == number)
    problems = inspect_dataset(dataset).all_problems
    assert any("have the same images" in problem for problem in problems)  # as they do here


def test_a_study_may_lack_a_region(
    studies: Path, geometry: Geometry, label: Any, make_series: Make, make_seg: Make
) -> None:
    images = make_series(studies / "p4" / "ct", geometry, PatientID="P4")
    make_seg(
        studies / "p4" / "seg" / "seg.dcm", images, (label == 1).astype("u1"), names=("Liver",)
    )
    names = "liver=Liver|Hepar,tumour=GTV*"
    dataset = open_dataset(studies, labels=names)
    case = dataset.cases[-1]
    with pytest.raises(UnknownName, match="GTV") as error:
        load_label(case, dataset.task, load_image(case))
    assert "missing=empty" in str(error.value.hint)
    dataset = open_dataset(studies, labels=names, missing="empty")
    case = dataset.cases[-1]
    assert case.group == "P4"
    found = load_label(case, dataset.task, load_image(case)).array
    np.testing.assert_array_equal(found, label == 1)


def test_regions_of_a_study_may_overlap(
    tmp_path: Path, geometry: Geometry, label: Any, make_series: Make, make_seg: Make
) -> None:
    images = make_series(tmp_path / "p1" / "ct", geometry, PatientID="P1")
    masks = np.stack([label > 0, label == 2], axis=-1).astype(np.uint8)
    make_seg(tmp_path / "p1" / "seg" / "seg.dcm", images, masks, names=("Liver", "GTV"))
    dataset = open_dataset(tmp_path, labels="liver=Liver,tumour=GTV", overlaps="last")
    (case,) = dataset.cases
    found = load_label(case, dataset.task, load_image(case)).array
    np.testing.assert_array_equal(found, np.where(label == 2, 2, label > 0))


@pytest.mark.parametrize("option", ["missing", "overlaps"])
def test_other_words_are_refused_at_once(studies: Path, option: str) -> None:
    with pytest.raises(BadInput, match=f"option {option} is 'channels'"):
        open_dataset(studies, **{option: "channels"})


def test_choices(studies: Path, geometry: Geometry, make_series: Make) -> None:
    make_series(studies / "p1" / "late", geometry, SeriesDescription="late phase")
    with pytest.raises(BadInput, match="names no label"):
        open_dataset(studies, labels="GTV")
    uid = _study(studies / "p1" / "ct")
    make_series(
        studies / "p1" / "venous", geometry, StudyInstanceUID=uid, SeriesDescription="venous"
    )
    with pytest.raises(BadInput, match="2 series that may be its scan") as error:
        open_dataset(studies)
    assert "venous" in str(error.value.hint)
    found = open_dataset(studies, image="venous")
    assert [case.id for case in found.cases] == ["p1"]
    items = find_items([str(studies)], channels=1, options={"image": "venous"})
    assert [item.id for item in items] == ["p1"]


@pytest.mark.parametrize("kind", ["RTSTRUCT", "SEG", "SR"])
def test_each_series_of_a_study_is_predicted(
    tmp_path: Path, geometry: Geometry, label: Any, make_series: Make, make_seg: Make,
    write_rtstruct: Make, kind: str,
) -> None:  # fmt: skip
    """Labels and reports are no scans."""
    study = tmp_path / "several"
    images = make_series(study / "CT1", geometry)
    uid = images[0].StudyInstanceUID
    late = make_series(study / "CT2", geometry, StudyInstanceUID=uid)
    if kind == "SEG":
        make_seg(study / kind / "seg.dcm", images, label)
    elif kind == "SR":
        make_series(study / kind, geometry, StudyInstanceUID=uid, Modality=kind)
    else:
        triangle = np.array([(3.0, 3.0, 2.0), (9.0, 3.0, 2.0), (9.0, 9.0, 2.0)])
        path = write_rtstruct({"Liver": [triangle]}, f"several/{kind}/rt.dcm")
        data = pydicom.dcmread(path)
        data.StudyInstanceUID = uid
        data.save_as(path)
    assert [item.id for item in find_items([str(study)], channels=1)] == ["CT1", "CT2"]
    options = {"series": str(late[0].SeriesInstanceUID)[-6:]}
    (item,) = find_items([str(study)], channels=1, options=options)
    assert (item.id, item.path, dict(item.images[0].options)) == ("several", study, options)


def test_no_series_of_a_study_is_left_out(
    tmp_path: Path, geometry: Geometry, make_series: Make
) -> None:
    study = tmp_path / "several"
    uid = make_series(study / "CT1", geometry)[0].StudyInstanceUID
    make_series(study / "late" / "CT2", geometry, StudyInstanceUID=uid)
    (item,) = find_items([str(study)], channels=1)
    assert item.path == study
    with pytest.raises(FileProblem, match="2 image series; one must be chosen"):
        open_volume(item.path)


def test_the_only_series_of_a_labelled_study_is_predicted(
    tmp_path: Path, geometry: Geometry, label: Any, make_series: Make, make_seg: Make
) -> None:
    study = tmp_path / "one"
    images = make_series(study / "CT1", geometry)
    make_seg(study / "SEG" / "seg.dcm", images, label)
    (item,) = find_items([str(study)], channels=1)
    assert (item.id, item.path) == ("one", study / "CT1")  # the name of its case
    options = {"series": str(images[0].SeriesInstanceUID)[-6:]}
    (item,) = find_items([str(study)], channels=1, options=options)
    assert (item.id, item.path, dict(item.images[0].options)) == ("one", study, options)


def test_several_files_in_the_series_of_the_labels(studies: Path) -> None:
    """One of them would be taken, and the others left out."""
    data = pydicom.dcmread(studies / "p1" / "seg" / "seg.dcm")
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.save_as(studies / "p1" / "seg" / "more.dcm")
    with pytest.raises(BadInput, match="2 SEG files in one series"):
        open_dataset(studies, reader="dicom_studies")


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FileProblem, match="no DICOM files"):
        open_dataset(tmp_path, reader="dicom_studies")


@pytest.mark.real_data
def test_real_studies(tmp_path: Path, real_data: Path) -> None:
    shutil.copytree(real_data / "dicom_rtstruct", tmp_path / "sarcoma")
    shutil.copytree(real_data / "dicom_seg", tmp_path / "liver")
    dataset = open_dataset(tmp_path, reader="dicom_studies", labels="mass=GTV*|Liver")
    report = inspect_dataset(dataset)
    assert report.all_problems == []
    sizes = {case.id: case.labels[0].voxels for case in report.cases}
    assert sizes["liver"] == 107098


def _study(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.glob("*.dcm"))).StudyInstanceUID)
