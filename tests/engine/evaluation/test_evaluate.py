"""Predictions find their references, and only maps that belong together are compared."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.engine.evaluation.evaluate import CaseMaps, evaluate, evaluate_case
from ctseg.engine.evaluation.matching import CHANGED, PREDICTIONS, find_pairs
from ctseg.engine.training.validate import score
from ctseg.errors import BadInput, FileProblem, GeometryMismatch, UnknownName
from ctseg.specs import ImageRef, Label, Task
from ctseg.task import classes_task
from ctseg.volume.file_names import stem_of
from ctseg.volume.file_state import state_of
from ctseg.volume.io import write
from ctseg.volume.volume import Volume

TASK = classes_task({"organ": 1, "lesion": 2})


def _map(*, lesion: bool = True, shift: int = 0, **geometry: object) -> Volume:
    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:4, 1 + shift : 4 + shift] = 1
    if lesion:
        array[0, 0, 0] = 2
    geometry.setdefault("spacing_xyz", (0.5, 1.0, 2.0))
    return Volume.from_array(array, **geometry)  # type: ignore[arg-type]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two predicted cases and their references, as two folders."""
    made, truth = tmp_path / "made", tmp_path / "truth"
    for name, shift in (("a", 0), ("b", 1)):
        write(_map(shift=shift), made / f"{name}.nii.gz")
        write(_map(), truth / f"{name}.nrrd")
    return made, truth


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "Set"
    for name in ("a", "b"):
        write(_map(), folder / "imagesTr" / f"{name}.nii.gz")
        write(_map(), folder / "labelsTr" / f"{name}.nii.gz")
    about = {
        "name": "Set", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": [
            {"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in ("a", "b")
        ],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def test_one_case_by_hand() -> None:
    result = evaluate_case(TASK, CaseMaps(_map(shift=1, lesion=False), _map(), "a"))
    organ, lesion = result.labels
    assert organ.dice == pytest.approx(2 * 12 / 36)
    assert organ.iou == pytest.approx(12 / 24)
    assert organ.reference_ml == pytest.approx(18 * 0.5 * 1.0 * 2.0 / 1000)
    assert (lesion.dice, lesion.state, lesion.predicted_ml) == (0.0, "missed", 0.0)
    (_, invented) = evaluate_case(TASK, CaseMaps(_map(), _map(lesion=False), "a")).labels
    assert (invented.dice, invented.state) == (0.0, "invented")
    (_, absent) = evaluate_case(TASK, CaseMaps(_map(lesion=False), _map(lesion=False), "a")).labels
    assert (absent.dice, absent.state) == (None, "absent")


@pytest.mark.parametrize("masked", [False, True])
def test_confusion_adds_up_to_the_volumes_of_either_map(masked: bool) -> None:
    made, truth = _map(shift=1), _map(lesion=False)
    mask = np.ones(truth.array.shape, np.uint8)
    mask[0] = 0
    maps = CaseMaps(made, truth, "a", mask=mask if masked else None)
    result = evaluate_case(replace(TASK, ignore=2), maps)
    counted = (mask > 0 if masked else mask > -1) & (truth.array != 2)
    ml = truth.geometry.voxel_volume_mm3 / 1000
    names = {0: "background", 1: "organ", 2: "lesion"}
    expected: dict[str, dict[str, float]] = {}
    for one, two in itertools.product(names, names):
        voxels = int(((truth.array == one) & (made.array == two) & counted).sum())
        if voxels:
            expected.setdefault(names[one], {})[names[two]] = pytest.approx(voxels * ml)
    assert result.confusion_ml == expected
    for item in result.labels:
        assert sum(result.confusion_ml.get(item.label, {}).values()) == pytest.approx(
            item.reference_ml
        )
        predicted = sum(row.get(item.label, 0.0) for row in result.confusion_ml.values())
        assert predicted == pytest.approx(item.predicted_ml)


def test_labels_that_overlap_have_no_confusion() -> None:
    task = Task("channels", (Label("organ", (1, 2), 1), Label("lesion", (2,), 2)))
    assert evaluate_case(task, CaseMaps(_map(shift=1), _map(), "a")).confusion_ml == {}


def test_maps_on_different_grids_are_not_compared() -> None:
    with pytest.raises(GeometryMismatch, match="spacing"):
        evaluate_case(TASK, CaseMaps(_map(), _map(spacing_xyz=(0.5, 1.0, 2.5)), "a"))
    other = Volume.from_array(np.zeros((4, 5, 7), np.uint8), spacing_xyz=(0.5, 1.0, 2.0))
    with pytest.raises(GeometryMismatch, match="shape"):
        evaluate_case(TASK, CaseMaps(_map(), other, "a"))


def test_a_value_beyond_the_task_is_refused() -> None:
    with pytest.raises(BadInput, match="value 2"):
        evaluate_case(classes_task({"organ": 1}), CaseMaps(_map(), _map(), "a"))


BACKGROUND = Label("background", (0,), 0)


@pytest.mark.parametrize(
    ("task", "written"),
    [
        (Task("classes", (BACKGROUND, Label("organ", (1,), 5), Label("lesion", (2, 3), 2))), {1: 5}),
        (Task("classes", (BACKGROUND, Label("organ", (1,), 2), Label("lesion", (2,), 1))), {1: 2, 2: 1}),
        (Task("channels", (Label("organ", (2, 1), 7), Label("lesion", (2,), 9))), {1: 7, 2: 9}),
    ],
)  # fmt: skip
def test_predictions_hold_what_the_task_writes_and_references_what_files_hold(
    task, written
) -> None:
    """As a run file may ask for with `value`; the figures are those of the values of the files on both sides."""
    made = _map(shift=1)
    moved = np.array(made.array)
    for stored, value in written.items():
        moved[made.array == stored] = value
    same = replace(task, labels=tuple(replace(one, value=one.values[-1]) for one in task.labels))
    expected = evaluate_case(same, CaseMaps(made, _map(), "a"))
    assert expected.labels[0].dice not in (0, 1) and expected.labels[1].dice == 1
    assert evaluate_case(task, CaseMaps(replace(made, array=moved), _map(), "a")) == expected
    large = replace(TASK, labels=(BACKGROUND, Label("organ", (300,), 1), Label("lesion", (2,), 2)))
    truth = replace(_map(), array=np.where(_map().array == 1, 300, _map().array.astype(np.int16)))
    assert evaluate_case(large, CaseMaps(_map(), truth, "a")).mean_dice == 1


def test_a_regression_is_measured_by_its_errors() -> None:
    task = Task("regression", TASK.labels[1:], ignore=-1)
    target = np.stack([np.zeros((2, 2, 2)), np.arange(8.0).reshape(2, 2, 2)]).astype(np.float32)
    made = target + np.float32(0.5)
    target[0, 0] = -1
    maps = [Volume.from_array(a, spacing_xyz=(1.0, 1.0, 1.0)) for a in (made, target)]
    (result,) = evaluate(*maps, task=task, data_range=7).cases
    organ, lesion = result.labels
    assert organ.values == pytest.approx(
        {"mse": 0.25, "mae": 0.5, "psnr": 10 * np.log10(49 / 0.25)}
    )
    assert lesion.values["mae"] == pytest.approx(0.5)
    with pytest.raises(BadInput, match="channels"):
        evaluate(maps[0], Volume.from_array(target[:1]), task=task)
    assert evaluate(*maps, task=task, metrics="all", data_range=7).cases == (result,)
    for metrics in ("dice", ["mae", "dice"]):
        with pytest.raises(BadInput, match="'dice' has no effect on a regression"):
            evaluate(*maps, task=task, metrics=metrics)


def test_two_volumes_without_a_task_compare_every_value() -> None:
    report = evaluate(_map(shift=1), _map())
    assert report.dice == pytest.approx({"1": 2 / 3, "2": 1.0})


def test_a_part_of_the_slices() -> None:
    assert evaluate(_map(), _map(), slices=(1, None)).dice == {"1": 1.0}
    with pytest.raises(BadInput, match="slices"):
        evaluate(_map(), _map(), slices=(9, None))


def test_two_files_are_paired_whatever_their_names(folders: tuple[Path, Path]) -> None:
    made, truth = folders
    report = evaluate(made / "b.nii.gz", truth / "a.nrrd")
    assert [case.case for case in report.cases] == ["a"]
    assert report.dice["1"] == pytest.approx(2 / 3)


def test_two_folders_are_paired_by_name_over_formats(folders: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int, str]] = []
    report = evaluate(*folders, progress=lambda *at: seen.append(at))
    assert [case.case for case in report.cases] == ["a", "b"]
    assert report.dice["1"] == pytest.approx((1 + 2 / 3) / 2)
    assert seen == [(1, 2, "a"), (2, 2, "b")]


def test_channel_names_and_other_files_do_not_disturb(folders: tuple[Path, Path]) -> None:
    made, truth = folders
    (made / "a.nii.gz").rename(made / "a_0000.nii.gz")
    (made / "notes.txt").write_text("x")
    assert [p.case for p in find_pairs(made, truth).pairs] == ["a", "b"]


@pytest.mark.parametrize(("side", "what"), [(0, "prediction"), (1, "reference")])
def test_a_case_without_its_fellow_is_named(
    folders: tuple[Path, Path], side: int, what: str
) -> None:
    next(folders[side].glob("b.*")).unlink()
    with pytest.raises(BadInput, match=f"no {what} in .*: b"):
        evaluate(*folders)
    assert len(evaluate(*folders, cases=["a"]).cases) == 1


def test_a_data_set_gives_task_and_labels(folders: tuple[Path, Path], dataset: Path) -> None:
    report = evaluate(folders[0], dataset)
    assert report.dice == pytest.approx({"organ": (1 + 2 / 3) / 2, "lesion": 1.0})
    one = evaluate(folders[0] / "b.nii.gz", dataset, cases=["b"])
    assert one.dice["organ"] == pytest.approx(2 / 3)
    assert evaluate(folders[0], dataset / "labelsTr") == report


def test_what_stands_beside_the_predictions_says_what_the_values_mean(
    folders: tuple[Path, Path],
) -> None:
    (folders[0] / PREDICTIONS).write_text(json.dumps({"task": asdict(TASK)}))
    assert set(evaluate(*folders).dice) == {"organ", "lesion"}
    about = {"task": asdict(TASK), "settings": {"labels": ["organ"]}}
    (folders[0] / PREDICTIONS).write_text(json.dumps(about))
    assert evaluate(*folders).labels == ("organ",)
    with pytest.raises(UnknownName, match="lesion"):
        evaluate(*folders, labels=["lesion"])
    (folders[0] / PREDICTIONS).write_text("{")
    with pytest.raises(FileProblem, match=r"predictions\.json"):
        evaluate(*folders)


def test_each_prediction_is_judged_by_the_labels_that_it_was_restricted_to(
    folders: tuple[Path, Path], dataset: Path
) -> None:
    made_with: dict[str, Any] = {"settings": {"labels": ["organ"]}}
    about = {
        "task": asdict(TASK), "settings": {"labels": None},
        "cases": [{"case": "a", "output": "elsewhere/a.nii.gz", "made_with": made_with}, 7],
    }  # fmt: skip
    (folders[0] / PREDICTIONS).write_text(json.dumps(about))
    for reference in (folders[1], dataset):
        found = {case.case: case for case in evaluate(folders[0], reference).cases}
        assert [label.label for label in found["a"].labels] == ["organ"]
        assert [label.label for label in found["b"].labels] == ["organ", "lesion"]
    made_with["task"] = asdict(classes_task({"organ": 1}))
    (folders[0] / PREDICTIONS).write_text(json.dumps(about))
    with pytest.raises(BadInput, match="other labels predicted the cases a and b"):
        evaluate(*folders)
    assert evaluate(*folders, cases=["b"]).labels == ("organ", "lesion")


def test_one_file_is_judged_by_the_record_beside_it_if_that_names_it(
    folders: tuple[Path, Path],
) -> None:
    about = {
        "task": asdict(TASK), "settings": {"labels": None},
        "cases": [{"case": "a", "output": "a.nii.gz", "made_with": {"settings": {"labels": ["organ"]}}}],
    }  # fmt: skip
    (folders[0] / PREDICTIONS).write_text(json.dumps(about))
    found = {
        name: evaluate(folders[0] / f"{name}.nii.gz", folders[1] / f"{name}.nrrd") for name in "ab"
    }
    assert (found["a"].labels, found["b"].labels) == (("organ",), ("1", "2"))


def test_a_prediction_that_something_else_wrote_since_the_record_is_scored_with_a_note(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    lines = [
        {"case": name, "output": f"{name}.nii.gz", "made": state_of(folders[0] / f"{name}.nii.gz")}
        for name in "ab"
    ]
    about = {"task": asdict(TASK), "settings": {"labels": None}, "cases": lines}
    (folders[0] / PREDICTIONS).write_text(json.dumps(about))
    shutil.copytree(folders[0], tmp_path / "copied", copy_function=shutil.copyfile)
    assert not any(case.notes for case in evaluate(tmp_path / "copied", folders[1]).cases)
    write(_map(shift=1, lesion=False), folders[0] / "a.nii.gz")  # corrected by hand, for example
    report = evaluate(*folders)
    assert report.labels == ("organ", "lesion")
    assert {case.case: case.notes for case in report.cases} == {"a": (CHANGED,), "b": ()}


def _recorded(folder: Path, task: Task) -> None:
    about = {"task": asdict(task), "settings": {"labels": None}}
    (folder / PREDICTIONS).write_text(json.dumps(about))


def test_labels_of_the_data_set_alone_count_as_background(dataset: Path, tmp_path: Path) -> None:
    """A model of one organ, evaluated on a data set of several: against the data set and against its labels."""
    made, seen = tmp_path / "made", list[Any]()
    plain = evaluate_case(TASK, CaseMaps(_map(shift=1), _map(), "a")).labels
    own = {"organ": 1, "lesion": 2}
    for name, value in (("organ", 1), ("lesion", 2), ("lesion", 1)):
        predicted = np.where(_map(shift=1).array == own[name], value, 0).astype(np.uint8)
        for case in ("a", "b"):
            write(replace(_map(), array=predicted), made / f"{case}.nii.gz")
        _recorded(made, classes_task({name: value}))
        for reference in (dataset, dataset / "labelsTr"):
            report = evaluate(made, reference, look=seen.append)
            expected = next(one for one in plain if one.label == name)
            assert report.dice == {name: pytest.approx(expected.dice)}
            (label,) = report.cases[0].labels
            assert label.reference_ml == pytest.approx(expected.reference_ml)
            found = report.cases[0].confusion_ml
            assert sum(found[name].values()) == pytest.approx(expected.reference_ml)
            assert set(found) == {"background", name}
            assert set(np.unique(seen[-1].reference)) == {0, own[name]}
    with pytest.raises(BadInput, match="value 2"):
        evaluate(made, dataset, task=classes_task({"organ": 1}))


def test_a_region_of_the_data_set_alone_counts_as_background(dataset: Path, tmp_path: Path) -> None:
    found = open_dataset(dataset)
    regions = Task("channels", (Label("whole", (1, 2), 1), Label("lesion", (2,), 2)))
    lesion = replace(_map(), array=np.where(_map().array == 2, 1, 0).astype(np.uint8))
    for case in ("a", "b"):
        write(lesion, tmp_path / "made" / f"{case}.nii.gz")
    _recorded(tmp_path / "made", Task("channels", (Label("lesion", (1,), 1),)))
    assert evaluate(tmp_path / "made", replace(found, task=regions)).dice == {"lesion": 1.0}


def test_labels_that_only_the_model_knows_are_not_scored(
    dataset: Path, folders: tuple[Path, Path]
) -> None:
    _recorded(folders[0], classes_task({"organ": 1, "gland": 2}))
    for reference in (dataset, dataset / "labelsTr"):
        assert evaluate(folders[0], reference).labels == ("organ",)


def test_hdf5_predictions_are_read_by_dataset(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "both.h5", "w") as file:
        file["/made"] = _map(shift=1).array
        file["/label"] = _map().array
        file["/raw"] = _map().array
    path = tmp_path / "both.h5"
    options = {"prediction_options": {"dataset": "/made"}}
    assert evaluate(path, path, **options).dice["1"] == pytest.approx(2 / 3)
    options["reference_options"] = {"dataset": "/made"}
    assert evaluate(path, path, **options).mean_dice == 1


def test_nothing_there_or_nothing_in_it(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        evaluate(tmp_path / "none", folders[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no label maps"):
        evaluate(tmp_path / "empty", folders[1])
    write(_map(), folders[0] / "a.nrrd")
    with pytest.raises(BadInput, match="two maps"):
        evaluate(*folders)


def test_stems_know_the_suffixes_of_the_formats() -> None:
    assert stem_of(Path("x/liver.01.nii.gz")) == "liver.01"
    assert stem_of(Path("liver.01.xyz")) == "liver.01"


def test_masks_and_groups_of_a_data_set_count(dataset: Path, folders: tuple[Path, Path]) -> None:
    inside = np.zeros((4, 5, 6), np.uint8)
    inside[..., 2:4] = 1  # where the shifted prediction of b agrees
    write(replace(_map(), array=inside), dataset / "mask.nii.gz")
    found = open_dataset(dataset)
    mask = ImageRef(dataset / "mask.nii.gz")
    found = replace(found, cases=tuple(replace(c, mask=mask, group="p") for c in found.cases))
    report = evaluate(folders[0], found)
    assert report.dice == {"organ": 1.0} and report.summary()[1].absent == 2
    assert [case.group for case in report.cases] == ["p", "p"]
    one = evaluate(folders[0] / "b.nii.gz", folders[1] / "b.nrrd", mask=mask.path)
    assert one.dice == {"1": 1.0}
    assert evaluate(_map(shift=1), _map(), mask=dataset / "mask.nii.gz").dice == {"1": 1.0}
    with pytest.raises(BadInput, match="2 cases"):
        evaluate(*folders, mask=mask.path)
    with pytest.raises(GeometryMismatch):
        evaluate(_map(), _map(), mask=Volume.from_array(inside))


def test_surfaces_are_measured_in_mm_of_the_volumes() -> None:
    report = evaluate(_map(shift=1), _map(), labels=["1"], tolerance_mm=0.5)
    assert report.hd95 == {"1": 0.5} and report.surface_dice == {"1": 1.0}
    assert report.settings == {"tolerance_mm": 0.5}
    assert set(json.loads(report.to_json())["means"]) == {
        "dice", "iou", "hd95", "surface_distance", "surface_dice",
    }  # fmt: skip
    cheap = evaluate_case(TASK, CaseMaps(_map(), _map(), "a"))
    assert set(cheap.labels[0].values) == {"dice", "iou"}  # what training pays for


def test_a_label_that_was_asked_for_is_scored_whether_it_is_there_or_not() -> None:
    report = evaluate(_map(), _map(), labels=["2", "9"])
    assert report.dice == {"2": 1.0} and report.summary()[1].absent == 1
    with pytest.raises(UnknownName, match="liver"):
        evaluate(_map(), _map(), labels=["liver"])
    with pytest.raises(UnknownName, match="liver"):
        evaluate(_map(), _map(), tolerance_mm={"liver": 2.0})


def test_instances_need_not_have_the_same_ids() -> None:
    truth, made = np.zeros((2, 4, 6, 6), np.int32)
    truth[:2, :2, :2], truth[:2, 4:, 4:] = 70000, 5
    made[:2, :2, :2], made[:2, 4:, 4:] = 3, 900
    maps = [Volume.from_array(a) for a in (made, truth)]
    report = evaluate(*maps, instances=True, metrics=["instances", "dice"])
    assert report.by_label("average_precision") == {"instances": 1.0}
    assert report.by_label("adapted_rand_error") == {"instances": 0.0}
    merged = [Volume.from_array(np.where(a > 0, 1, 0)) for a in (made, truth)]
    joined = evaluate(merged[0], maps[1], instances=True, metrics="instances")
    assert joined.mean("average_precision") == 0.5
    with pytest.raises(BadInput, match="channels"):
        evaluate(Volume.from_array(np.zeros((2, 4, 6, 6))), maps[1], instances=True)
    with pytest.raises(BadInput, match="no effect on ids of instances"):
        evaluate(*maps, instances=True, labels=["1"])


def test_validation_heeds_the_mask_of_a_case(dataset: Path) -> None:
    inside = np.zeros((4, 5, 6), np.uint8)
    inside[..., 2:4] = 1
    write(replace(_map(), array=inside), dataset / "mask.nii.gz")
    case = replace(open_dataset(dataset).cases[0], mask=ImageRef(dataset / "mask.nii.gz"))
    whole, part = (score(TASK, one, _map(shift=1)) for one in (replace(case, mask=None), case))
    assert whole.labels[0].dice == pytest.approx(2 / 3) and part.labels[0].dice == 1
    assert set(part.labels[0].values) == {"dice", "iou"}
