"""Rules that validation cases ask for."""

from __future__ import annotations

import numpy as np
import pytest

from ctseg.engine.evaluation.suggest_cleanup import suggest_rules
from ctseg.engine.postprocess import PostprocessRule
from ctseg.errors import BadInput
from ctseg.specs import Label, Task
from ctseg.task import classes_task

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


def test_labels_that_gain_are_named():
    found = suggest_rules(TASK, [case(island=True), case()])
    assert found.rules == (PostprocessRule(label="liver", keep_largest=1),)
    assert found.cases == 2
    assert found.before["liver"] < 1 == found.after["liver"]
    assert found.after["lesion"] == 1  # both lesions stay, since the smaller one is right
    assert found.before["spleen"] == found.after["spleen"] == 1


def test_the_foreground_as_one_comes_first():
    """What lies apart goes with the foreground's largest part; nothing is left for the spleen's own rule."""
    found = suggest_rules(TASK, [case(far=True)])
    assert found.rules == (PostprocessRule(label=("liver", "lesion", "spleen"), keep_largest=1),)
    assert found.after == {"liver": 1.0, "lesion": 1.0, "spleen": 1.0}
    both = suggest_rules(TASK, [case(far=True, island=True)])
    assert [rule.names for rule in both.rules] == [("liver", "lesion", "spleen"), ("liver",)]


def test_nothing_is_done_where_nothing_helps():
    predicted, reference = case()
    reference[1:3, 1:3, 17:19] = predicted[1:3, 1:3, 17:19] = 3  # a second spleen, which is right
    found = suggest_rules(TASK, [(predicted, reference)])
    assert found.rules == () and found.before == found.after


def test_a_task_of_one_label_has_one_rule():
    task = classes_task({"organ": 4})
    reference = np.zeros((4, 6, 12), np.uint8)
    reference[1:3, 1:5, 1:5] = 4
    predicted = reference.copy()
    predicted[1, 1, 9] = 4
    found = suggest_rules(task, [(predicted, reference)])
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
    found = suggest_rules(task, [(predicted, reference)])
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
    found = suggest_rules(task, [(predicted, reference)])
    assert found.rules == (whole,)
    assert found.before == {"organ": 1.0, "lesion": 0.0}
    assert found.after == {"organ": 1.0, "lesion": 1.0}
    diseased = reference.copy()
    diseased[2:4, 2:4, 2:4] = 2
    half = diseased.copy()
    half[2, 2:4, 2:4] = 1
    found = suggest_rules(task, [(predicted, reference), (half, diseased)])
    assert found.rules == (whole,)
    dice = 2 * 4 / (4 + 8)
    assert found.before["lesion"] == pytest.approx(dice / 2)
    assert found.after["lesion"] == pytest.approx((1 + dice) / 2)


def test_no_case_is_no_evidence():
    with pytest.raises(BadInput, match="no validation case"):
        suggest_rules(TASK, [])
    with pytest.raises(BadInput, match="has no label"):
        suggest_rules(classes_task({"background": 0}), [case()])
    with pytest.raises(BadInput, match="A regression predicts values"):
        suggest_rules(Task("regression", (Label("hu", (1,), 1),)), [case()])
