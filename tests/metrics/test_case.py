"""All metrics of a case: what missed, invented, absent, ignored and masked structures score."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ctseg.errors import BadInput, UnknownName
from ctseg.metrics.case import MetricSettings, score_labels, score_values
from ctseg.metrics.catalogue import CHEAP, DEFAULT, REGRESSION, labels_only, metric, resolve
from ctseg.metrics.pairs import MapPair
from ctseg.metrics.report import CaseResult, LabelResult, Report
from ctseg.metrics.surface import surface_distances
from ctseg.specs import Label, Task
from ctseg.task import classes_task

SPACING = (2.0, 1.0, 0.5)
TASK = classes_task({"organ": 1, "lesion": 2, "vessel": 3, "bone": 4})
ALL = labels_only()
EVERYTHING = MetricSettings(ALL)


def _maps() -> tuple[np.ndarray, np.ndarray]:
    """Both hold the organ, the lesion is missed, the vessel invented, and nobody has bone."""
    made, truth = np.zeros((2, 10, 12, 14), np.uint8)
    truth[1:6, 1:8, 1:8], made[2:6, 1:8, 1:9] = 1, 1
    truth[8, 8, 8], made[8, 2:9, 12] = 2, 3
    return made, truth


def _by_name(results: tuple[LabelResult, ...]) -> dict[str, LabelResult]:
    return {item.label: item for item in results}


def test_every_metric_of_every_state() -> None:
    made, truth = _maps()
    found = _by_name(score_labels(TASK, MapPair(made, truth, SPACING), EVERYTHING))
    diagonal = math.hypot(20, 12, 7)
    organ = found["organ"]
    assert organ.state == "both" and None not in organ.values.values()
    both, sizes = 4 * 7 * 7, (4 * 7 * 8, 5 * 7 * 7)
    assert organ.values["precision"] == both / sizes[0]
    assert organ.values["recall"] == both / sizes[1]
    assert organ.values["volume_difference"] == pytest.approx(sizes[0] / sizes[1] - 1)
    assert organ.values["volume_difference_ml"] == pytest.approx((sizes[0] - sizes[1]) / 1000)
    surface = surface_distances(made == 1, truth == 1, SPACING)
    assert surface is not None
    assert organ.values["hd95"] == surface.hausdorff(95)
    assert organ.values["hausdorff"] == surface.hausdorff() == 2
    assert organ.values["surface_distance"] == surface.mean
    assert organ.values["surface_dice"] == surface.dice(1.0)
    assert organ.values["average_precision"] == 1
    for name, state in (("lesion", "missed"), ("vessel", "invented")):
        assert found[name].state == state
        for one in ALL:
            worst = metric(one).worst
            if worst is not None:
                expected = diagonal if worst == "diagonal" else worst
                assert found[name].values[one] == expected, one
    assert found["lesion"].values["volume_difference"] == -1
    assert found["vessel"].values["volume_difference"] is None  # a share of nothing
    assert found["bone"].state == "absent"
    assert set(found["bone"].values.values()) == {None}


def test_a_report_of_it_says_what_was_left_out_and_holds_no_nan() -> None:
    results = score_labels(TASK, MapPair(*_maps(), SPACING), EVERYTHING)
    report = Report((CaseResult("a", results, "p", 9.0), CaseResult("b", results, "q")), {"x": 1})
    data = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert data["labels"]["bone"]["hd95"] is None and data["labels"]["bone"]["absent"] == 2
    assert data["labels"]["vessel"]["left_out"] == {"volume_difference": 2}
    assert Report.from_json(report.to_json()) == report
    assert set(report.hd95) == set(report.surface_dice) == {"organ", "lesion", "vessel"}
    assert report.mean("surface_dice") == pytest.approx(report.surface_dice["organ"] / 3)
    broken = LabelResult("a", {"dice": math.nan, "hd95": math.inf})
    assert set(broken.values.values()) == {None}


def test_ignored_and_masked_voxels_count_in_no_metric() -> None:
    made, truth = _maps()
    inside = np.zeros(truth.shape, bool)
    inside[:, :, :7] = True
    ignoring = classes_task({"organ": 1, "lesion": 2, "vessel": 3, "bone": 4}, ignore=255)
    marked = np.where(inside, truth, 255).astype(np.uint8)
    by_ignore = score_labels(ignoring, MapPair(made, marked, SPACING), EVERYTHING)
    by_mask = score_labels(TASK, MapPair(made, truth, SPACING, inside), EVERYTHING)
    assert by_ignore == by_mask
    found = _by_name(by_mask)
    assert [found[n].state for n in ("lesion", "vessel")] == ["absent", "absent"]
    assert found["organ"].values["precision"] == 1  # what is too much lies outside
    nothing = score_labels(TASK, MapPair(made, truth, SPACING, inside & False), EVERYTHING)
    assert {item.state for item in nothing} == {"absent"}


def test_channels_regions_and_strange_values_are_measured_alike() -> None:
    made, truth = _maps()
    regions = Task("channels", (Label("whole", (1, 2), 1), Label("core", (2,), 2)))
    truth[3, 3, 3] = made[3, 3, 4] = 2
    made[made == 3] = 0
    settings = MetricSettings((*DEFAULT, "centreline_dice"))
    expected = score_labels(regions, MapPair(made, truth, SPACING), settings)
    stacks = [np.stack([np.isin(m, (1, 2)), m == 2]).astype(np.uint8) for m in (made, truth)]
    assert score_labels(regions, MapPair(*stacks, SPACING), settings) == expected
    far = Task("channels", (Label("whole", (-5, 70000), 1), Label("core", (70000,), 2)))
    moved = [np.select([m == 1, m == 2], [-5, 70000], 0) for m in (made, truth)]
    assert score_labels(far, MapPair(*moved, SPACING), settings) == expected


def test_a_label_may_lie_where_the_maps_are_0() -> None:
    """Pores in a solid: the same maps with two numbers exchanged say the same."""
    made, truth = ((m == 1).astype(np.uint8) for m in _maps())
    made[8:, 9:, :3] = truth[8:, 10:, :3] = 2
    pores = (Label("solid", (1,), 1), Label("pore", (0,), 0), Label("metal", (2,), 2))
    expected = score_labels(
        classes_task({"pore": 1, "metal": 2}), MapPair(made, truth, SPACING), EVERYTHING
    )
    assert not any(None in item.values.values() for item in expected)
    turned = (np.choose(m, (1, 0, 2)) for m in (made, truth))
    assert score_labels(Task("classes", pores), MapPair(*turned, SPACING), EVERYTHING) == expected


def test_only_some_labels_and_tolerances_of_their_own() -> None:
    made, truth = _maps()
    settings = MetricSettings(("surface_dice",), ("organ",), {"organ": 0.0})
    (organ,) = score_labels(TASK, MapPair(made, truth, SPACING), settings)
    (other,) = score_labels(
        TASK, MapPair(made, truth, SPACING), MetricSettings(("surface_dice",), ("organ",), 9.0)
    )
    assert 0 < organ.values["surface_dice"] < other.values["surface_dice"] == 1  # type: ignore[operator]
    with pytest.raises(UnknownName, match="lever"):
        score_labels(TASK, MapPair(made, truth, SPACING), MetricSettings(labels=("lever",)))


def test_a_regression_by_channel() -> None:
    task = Task("regression", (Label("x", (1,), 1), Label("y", (2,), 2)), ignore=-1)
    target = np.arange(16.0).reshape(2, 2, 2, 2)
    target[0, 0, 0, 0], target[1] = -1, -1
    made = target + 2
    x, y = score_values(task, made, target, MetricSettings(REGRESSION))
    assert x.values == {"mse": 4, "mae": 2, "psnr": pytest.approx(10 * math.log10(36 / 4))}
    assert y.state == "absent" and set(y.values.values()) == {None}
    mask = np.ones((2, 2, 2), bool)
    assert score_values(task, made, target, MetricSettings(REGRESSION, data_range=20), mask)[
        0
    ].values["psnr"] == pytest.approx(20.0)
    (only,) = score_values(task, made, target, MetricSettings(("mae",), labels=("x",)))
    assert only.values == {"mae": 2}
    with pytest.raises(BadInput, match="channels"):
        score_values(task, made[:1], target, MetricSettings(REGRESSION))


def test_names_and_groups_of_metrics() -> None:
    assert resolve(None) == DEFAULT
    assert resolve("hd95, dice") == ("dice", "hd95")
    assert resolve(["instances", "mae"]) == ("adapted_rand_error", "average_precision", "mae")
    assert resolve("all") == ALL and set(CHEAP) < set(ALL) and not set(ALL) & set(REGRESSION)
    with pytest.raises(UnknownName, match="hd59") as error:
        resolve("hd59")
    assert "hd95" in str(error.value)
    with pytest.raises(BadInput, match="No metric"):
        resolve("")
    for bad in ({"tolerance_mm": -1.0}, {"iou_thresholds": ()}, {"iou_thresholds": (1.5,)}):
        with pytest.raises(BadInput):
            MetricSettings(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i2", "uint32", "int64", "uint64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F", "view"])
def test_neither_type_nor_order_in_memory_matters(dtype: str, order: str) -> None:
    made, truth = ((m == 1).astype(np.uint8) for m in _maps())
    task = classes_task({"organ": 1})
    expected = score_labels(task, MapPair(made, truth, SPACING), EVERYTHING)
    one, two = made.astype(dtype), truth.astype(dtype if order != "view" else "int32")
    if order == "F":
        one, two = np.asfortranarray(one), np.asfortranarray(two)
    if order == "view":
        one, two = np.repeat(one, 2, axis=2)[..., ::2], two[::-1].copy()[::-1]
    assert score_labels(task, MapPair(one, two, SPACING), EVERYTHING) == expected
