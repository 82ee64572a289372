"""Rules that validation cases ask for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctseg.data.readers.find import open_dataset
from ctseg.engine.evaluation.case_maps import CaseMaps
from ctseg.engine.evaluation.evaluate import evaluate
from ctseg.engine.evaluation.matching import PREDICTIONS, find_pairs
from ctseg.engine.evaluation.suggest_cleanup import Suggestion, suggest_for, suggest_rules
from ctseg.engine.postprocess import PostprocessRule
from ctseg.errors import BadInput
from ctseg.specs import DataSet, ImageRef, Label, Task
from ctseg.task import classes_task, to_dict
from ctseg.volume.io import write
from ctseg.volume.volume import Volume

TASK = classes_task({"liver": 1, "lesion": 2, "spleen": 3})


def case(*, island: bool = False, far: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A liver with two lesions in it, and a spleen that touches it; errors in the prediction."""
    reference = np.zeros((8, 12, 20), np.uint8)
    reference[1:7, 2:10, 1:9] = 1
    reference[2:4, 3:5, 2:4] = reference[5, 6:8, 6:8] = 2
    reference[2:6, 3:7, 9:13] = 3
    predicted = reference.copy()
    if island:
        predicted[2:4, 8:10, 10:12] = 1  # touches the liver's mask only by way of the spleen
        predicted[4, 7, 11] = 1
    if far:
        predicted[1:3, 1:3, 17:19] = 3
    return predicted, reference


def compared(predicted: np.ndarray, reference: np.ndarray, **more: object) -> CaseMaps:
    maps = Volume.from_array(predicted), Volume.from_array(reference)
    return CaseMaps(*maps, "case", **more)  # type: ignore[arg-type]


def suggest(task: Task, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Suggestion:
    return suggest_rules(task, [compared(*pair) for pair in pairs])


def test_labels_that_gain_are_named():
    found = suggest(TASK, [case(island=True), case()])
    assert found.rules == (PostprocessRule(label="liver", keep_largest=1),)
    assert found.cases == 2
    assert found.before["liver"] < 1 == found.after["liver"]
    assert found.after["lesion"] == 1  # both lesions stay, since the smaller one is right
    assert found.before["spleen"] == found.after["spleen"] == 1


def test_the_foreground_as_one_comes_first():
    """What lies apart goes with the foreground's largest part; nothing is left for the spleen's own rule."""
    found = suggest(TASK, [case(far=True)])
    assert found.rules == (PostprocessRule(label=("liver", "lesion", "spleen"), keep_largest=1),)
    assert found.after == {"liver": 1.0, "lesion": 1.0, "spleen": 1.0}
    both = suggest(TASK, [case(far=True, island=True)])
    assert [rule.names for rule in both.rules] == [("liver", "lesion", "spleen"), ("liver",)]


def test_nothing_is_done_where_nothing_helps():
    predicted, reference = case()
    reference[1:3, 1:3, 17:19] = predicted[1:3, 1:3, 17:19] = 3  # a second spleen, which is right
    found = suggest(TASK, [(predicted, reference)])
    assert found.rules == () and found.before == found.after


def test_a_task_of_one_label_has_one_rule():
    task = classes_task({"organ": 4})
    reference = np.zeros((4, 6, 12), np.uint8)
    reference[1:3, 1:5, 1:5] = 4
    predicted = reference.copy()
    predicted[1, 1, 9] = 4
    found = suggest(task, [(predicted, reference)])
    assert found.rules == (PostprocessRule(label="organ", keep_largest=1),)
    assert found.after == {"organ": 1.0}


def test_regions_and_labels_that_no_case_has():
    task = Task(
        "channels", (Label("whole", (1, 2), 1), Label("core", (2,), 2), Label("x", (9,), 9))
    )
    reference = np.zeros((4, 8, 16), np.uint8)
    reference[:, 1:7, 1:9] = 1
    reference[1:3, 2:5, 2:5] = 2
    predicted = reference.copy()
    predicted[1, 5, 7] = 2
    found = suggest(task, [(predicted, reference)])
    assert found.rules == (PostprocessRule(label="core", keep_largest=1),)
    assert set(found.before) == {"whole", "core"}


def test_a_wrong_label_that_a_rule_removes_is_no_loss():
    """A lesion in a healthy scan, alone or beside a case that has one."""
    task = classes_task({"organ": 1, "lesion": 2})
    reference = np.zeros((6, 8, 12), np.uint8)
    reference[1:5, 1:7, 1:7] = 1
    predicted = reference.copy()
    predicted[2, 2, 10] = 2
    whole = PostprocessRule(label=("organ", "lesion"), keep_largest=1)
    found = suggest(task, [(predicted, reference)])
    assert found.rules == (whole,)
    assert found.before == {"organ": 1.0, "lesion": 0.0}
    assert found.after == {"organ": 1.0, "lesion": 1.0}
    diseased = reference.copy()
    diseased[2:4, 2:4, 2:4] = 2
    half = diseased.copy()
    half[2, 2:4, 2:4] = 1
    found = suggest(task, [(predicted, reference), (half, diseased)])
    assert found.rules == (whole,)
    dice = 2 * 4 / (4 + 8)
    assert found.before["lesion"] == pytest.approx(dice / 2)
    assert found.after["lesion"] == pytest.approx((1 + dice) / 2)


def test_no_case_is_no_evidence():
    with pytest.raises(BadInput, match="no validation case"):
        suggest(TASK, [])
    with pytest.raises(BadInput, match="has no label"):
        suggest(classes_task({"background": 0}), [case()])
    with pytest.raises(BadInput, match="A regression predicts values"):
        suggest(Task("regression", (Label("hu", (1,), 1),)), [case()])


def test_a_rule_is_judged_by_the_labels_that_were_drawn():
    """Who did not draw the lesions cannot say what becomes of them with the foreground's largest part."""
    partly = compared(*case(far=True), drawn=("liver", "spleen"))
    found = suggest_rules(TASK, [partly])
    assert found.rules == (PostprocessRule(label="spleen", keep_largest=1),)
    assert found.after == {"liver": 1.0, "spleen": 1.0}
    found = suggest_rules(TASK, [partly, compared(*case(far=True))])
    assert found.rules == (PostprocessRule(label=("liver", "lesion", "spleen"), keep_largest=1),)
    assert found.cases == 2
    predicted, reference = case()
    reference[1:3, 1:3, 17:19] = predicted[1:3, 1:3, 17:19] = 3  # a second spleen, which is right
    second = compared(predicted, reference, drawn=("spleen",))
    found = suggest_rules(TASK, [second, second, compared(*case(far=True))])
    assert found.rules == ()


@pytest.fixture
def annotated(tmp_path: Path) -> tuple[Path, DataSet]:
    """Exact predictions of two cases; on the far side there is more liver, which nobody drew."""
    reference = np.zeros((4, 6, 12), np.uint8)
    reference[1:3, 1:5, 1:4] = 1
    reference[1:3, 1:5, 4:6] = 2
    predicted = reference.copy()
    predicted[1:3, 1:3, 9:11] = 1
    data = tmp_path / "Set"
    for name in ("a", "b"):
        write(Volume.from_array(reference), data / "imagesTr" / f"{name}.nii.gz")
        write(Volume.from_array(reference), data / "labelsTr" / f"{name}.nii.gz")
        write(Volume.from_array(predicted), tmp_path / "made" / f"{name}.nii.gz")
    about = {
        "name": "Set", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": [
            {"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in ("a", "b")
        ],
    }  # fmt: skip
    (data / "dataset.json").write_text(json.dumps(about))
    return tmp_path / "made", open_dataset(data)


def agreed(made: Path, dataset: DataSet) -> Suggestion:
    """The suggestion, whose figures are those of the evaluation."""
    found = suggest_for(find_pairs(made, dataset))
    assert found.before == pytest.approx(evaluate(made, dataset).dice)
    return found


def test_what_lies_outside_the_mask_asks_for_no_rule(annotated: tuple[Path, DataSet]) -> None:
    made, dataset = annotated
    assert [rule.names for rule in agreed(made, dataset).rules] == [("liver", "spleen")]
    inside = np.zeros((4, 6, 12), np.uint8)
    inside[..., :7] = 1
    mask = dataset.path / "mask.nii.gz"
    write(Volume.from_array(inside), mask)
    cases = tuple(replace(case, mask=ImageRef(mask)) for case in dataset.cases)
    found = agreed(made, replace(dataset, cases=cases))
    assert found.rules == () and found.before == {"liver": 1.0, "spleen": 1.0}


def test_labels_that_were_not_drawn_or_not_predicted_ask_for_no_rule(
    annotated: tuple[Path, DataSet],
) -> None:
    made, dataset = annotated
    first, second = dataset.cases
    partly = replace(dataset, cases=(replace(first, drawn=("spleen",)), second))
    assert agreed(made, partly).before["liver"] < 1
    both = tuple(replace(case, drawn=("spleen",)) for case in dataset.cases)
    found = agreed(made, replace(dataset, cases=both))
    assert found.rules == () and found.before == {"spleen": 1.0}
    about = {"task": to_dict(dataset.task), "settings": {"labels": ["spleen"]}}
    (made / PREDICTIONS).write_text(json.dumps(about))
    found = agreed(made, dataset)
    assert found.rules == () and found.before == {"spleen": 1.0}
