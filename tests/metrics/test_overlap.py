"""Overlap against SimpleITK and against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctseg.errors import BadInput
from ctseg.metrics.overlap import dice, iou, joint_histogram, label_counts
from ctseg.specs import Label, Task
from ctseg.task import classes_task
from ctseg.volume.distinct_values import distinct_values

RNG = np.random.default_rng(3)


def _maps(high: int, dtype: str = "uint8") -> tuple[np.ndarray, np.ndarray]:
    one = RNG.integers(0, high, (5, 7, 9)).astype(dtype)
    two = np.where(RNG.random(one.shape) < 0.6, one, RNG.integers(0, high, one.shape)).astype(dtype)
    return one, two


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float32"])
def test_dice_and_iou_of_every_label_are_those_of_simpleitk(dtype: str) -> None:
    one, two = _maps(4, dtype)
    task = classes_task({"a": 1, "b": 2, "c": 3})
    counts = label_counts(task, one, two)
    measure = sitk.LabelOverlapMeasuresImageFilter()
    measure.Execute(*(sitk.GetImageFromArray(a.astype(np.uint8)) for a in (two, one)))
    for value, name in enumerate("abc", start=1):
        assert counts[name].dice == pytest.approx(measure.GetDiceCoefficient(value))
        assert counts[name].iou == pytest.approx(measure.GetJaccardCoefficient(value))
        assert dice(one == value, two == value) == counts[name].dice
        assert iou(one == value, two == value) == counts[name].iou


def test_large_and_negative_values_are_counted_alike() -> None:
    one, two = _maps(4, "int32")
    shift = {0: 0, 1: -7, 2: 1500, 3: 70000}
    far_one, far_two = (np.vectorize(shift.get)(a).astype(np.int32) for a in (one, two))
    values, table = joint_histogram(far_one, far_two)
    near_values, near_table = joint_histogram(one, two)
    assert sorted(shift.values()) == values.tolist() == distinct_values(far_one)
    order = [list(values).index(shift[v]) for v in near_values]
    assert np.array_equal(table[np.ix_(order, order)], near_table)


def test_slabs_do_not_change_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = _maps(4)
    _, whole = joint_histogram(one, two)
    monkeypatch.setattr("ctseg.volume.distinct_values.SLAB_VOXELS", 2 * 7 * 9)
    assert np.array_equal(joint_histogram(one, two)[1], whole)
    assert whole.sum() == one.size


def test_ignored_voxels_do_not_count() -> None:
    task = classes_task({"a": 1}, ignore=255)
    reference = np.array([[[1, 1, 0, 255]]])
    predicted = np.array([[[1, 0, 0, 1]]])
    counts = label_counts(task, predicted, reference)["a"]
    assert (counts.predicted, counts.reference, counts.both) == (1, 2, 1)
    stacked = Task("channels", (Label("a", (1,), 1),), ignore=255, stacked=True)
    both = (predicted[None], reference[None])
    assert label_counts(stacked, *both)["a"] == counts


def test_overlapping_regions_are_counted_from_one_map_and_from_channels_alike() -> None:
    task = Task("channels", (Label("whole", (1, 2), 1), Label("core", (2,), 2)))
    one, two = _maps(3)
    from_map = label_counts(task, one, two)
    stack = np.stack([np.isin(one, (1, 2)), one == 2])
    assert label_counts(task, stack, two) == from_map
    assert from_map["whole"].predicted == np.count_nonzero(one)


def test_empty_maps_have_no_dice() -> None:
    empty = np.zeros((2, 2, 2), bool)
    assert dice(empty, empty) is None
    assert iou(empty, empty) is None
    assert dice(empty, ~empty) == 0


def test_what_is_no_label_map_is_refused() -> None:
    task = classes_task({"a": 1})
    with pytest.raises(BadInput, match="whole numbers"):
        label_counts(task, np.full((2, 2, 2), 0.5), np.zeros((2, 2, 2), int))
    with pytest.raises(BadInput, match="shapes"):
        label_counts(task, np.zeros((2, 2, 3), int), np.zeros((2, 2, 2), int))
    with pytest.raises(BadInput, match="channels"):
        label_counts(task, np.zeros((5, 2, 2, 2), int), np.zeros((2, 2, 2), int))


def test_maps_of_instances_are_not_taken_for_labels() -> None:
    """A table of all pairs of a hundred thousand values would need 80 GB."""
    ids = np.arange(5000).reshape(5, 10, 100)
    with pytest.raises(BadInput, match="5000 different values") as caught:
        joint_histogram(ids, ids)
    assert "--instance-ids" in str(caught.value.hint)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint64", "int64", "float32"])
def test_values_of_every_type_are_found(dtype: str) -> None:
    assert distinct_values(np.array([[[0, 1, 1]]], dtype)) == [0, 1]
    assert distinct_values(np.zeros((0, 2, 2), dtype)) == []
