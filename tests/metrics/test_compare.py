"""Two predictions of the same cases: SciPy's signed-rank test, and who was better by hand."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from ctseg.errors import BadInput
from ctseg.metrics.bootstrap import BootstrapSample, intervals
from ctseg.metrics.compare import compare, rank, signed_rank
from ctseg.metrics.report import CaseResult, LabelResult, Report

RNG = np.random.default_rng(2)


def _report(dice: dict[str, list[float | None]], *, groups: str | None = None) -> Report:
    cases = []
    for i in range(len(next(iter(dice.values())))):
        labels = tuple(
            LabelResult(label, {"dice": v[i], "hd95": None if v[i] is None else 10 - 10 * v[i]},
                        state="absent" if v[i] is None else "both")
            for label, v in dice.items()
        )  # fmt: skip
        cases.append(CaseResult(f"c{i}", labels, groups[i] if groups else None))
    return Report(tuple(cases))


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_p_is_that_of_scipy_without_ties(size: int) -> None:
    differences = RNG.normal(0.3, 1, size)
    assert signed_rank(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue)


def test_p_with_ties_is_that_of_all_signs() -> None:
    differences = np.array([1.0, 1.0, -1.0, 2.0, 3.0, 3.0, -2.0, 4.0])
    ranks = rankdata(np.abs(differences))
    seen = ranks[differences > 0].sum()
    sums = np.array(
        [ranks[list(signs)].sum() for signs in itertools.product([False, True], repeat=8)]
    )
    expected = min(1.0, 2 * min((sums <= seen).mean(), (sums >= seen).mean()))
    assert signed_rank(differences) == pytest.approx(expected)
    assert signed_rank(np.append(differences, [0.0, 0.0])) == pytest.approx(expected)
    assert signed_rank(np.zeros(4)) is None


def test_many_differences_take_the_normal_approximation() -> None:
    differences = RNG.normal(0.1, 1, 250)
    assert signed_rank(differences) == pytest.approx(wilcoxon(differences, method="approx").pvalue)


def test_who_is_better_by_label_and_metric() -> None:
    ours = _report({"liver": [0.9, 0.8, 0.7, 0.6], "lesion": [0.5, None, 0.5, 0.5]})
    other = _report({"liver": [0.8, 0.7, 0.6, 0.6], "lesion": [0.5, 0.0, 0.5, 0.5]})
    found = {(d.metric, d.label): d for d in compare(ours, other)}
    liver = found["dice", "liver"]
    assert liver.difference == pytest.approx(0.075)
    assert (liver.better, liver.worse, liver.equal, liver.cases) == (3, 0, 1, 4)
    assert liver.interval is not None and liver.interval[0] <= 0.075 <= liver.interval[1]
    assert found["hd95", "liver"].difference == pytest.approx(-0.75)
    assert (found["hd95", "liver"].better, found["hd95", "liver"].worse) == (3, 0)
    lesion = found["dice", "lesion"]
    assert (lesion.cases, lesion.unpaired, lesion.p_value) == (3, 1, None)
    assert found["dice", "mean"].cases == 4
    assert json.loads(json.dumps([d.to_dict() for d in found.values()], allow_nan=False))


def test_p_values_are_corrected_for_the_number_of_labels() -> None:
    base = RNG.random(9)
    ours = _report(
        {"a": list(base + 0.3), "b": list(base + RNG.normal(0, 0.1, 9)), "c": list(base)}
    )
    other = _report({"a": list(base), "b": list(base), "c": list(base)})
    rows = {d.label: d for d in compare(ours, other) if d.metric == "dice"}
    assert rows["a"].p_value == pytest.approx(2 / 2**9)
    assert rows["a"].p_holm == pytest.approx(2 * 2 / 2**9)  # c cannot be tested
    assert rows["b"].p_holm == pytest.approx(rows["b"].p_value) and rows["c"].p_holm is None
    assert rows["mean"].p_holm is None


def test_scans_of_one_patient_are_one_observation() -> None:
    ours = _report({"a": [0.9, 0.8, 0.7, 0.7]}, groups="ppqq")
    other = _report({"a": [0.8, 0.8, 0.6, 0.6]}, groups="ppqq")
    row = compare(ours, other)[0]
    assert (row.groups, row.cases, row.better, row.p_value) == (2, 4, 2, 0.5)


def test_other_cases_are_refused() -> None:
    with pytest.raises(BadInput, match="c1"):
        compare(_report({"a": [0.5, 0.5]}), _report({"a": [0.5]}))


def test_a_label_named_mean_is_a_label() -> None:
    ours = _report({"mean": [0.9, 0.8, 0.7, 0.6], "lesion": [0.5, 0.5, 0.5, 0.5]})
    other = _report({"mean": [0.5, 0.4, 0.3, 0.1], "lesion": [0.5, 0.5, 0.5, 0.6]})
    found = [d for d in compare(ours, other) if d.metric == "dice"]
    assert [(d.label, d.overall) for d in found] == [
        ("mean", False), ("lesion", False), ("mean", True),
    ]  # fmt: skip
    label, _, overall = found
    assert label.difference == pytest.approx(0.425)
    assert overall.difference == pytest.approx((0.425 - 0.025) / 2)
    assert label.p_holm is not None and overall.p_holm is None


def test_the_row_over_all_labels_has_the_difference_of_the_means_that_rank() -> None:
    """A is better by mean, as lesion is in one case only, although B is better in nearly every case."""
    absent = [None] * 19
    reports = {
        "A": _report({"liver": [0.80] * 20, "lesion": [1.0, *absent]}),
        "B": _report({"liver": [0.85] * 20, "lesion": [0.7, *absent]}),
    }
    best, second = rank(reports)
    against = second.against_best
    assert best.name == "A" and against is not None
    assert against.difference == pytest.approx(best.mean - second.mean) == pytest.approx(0.125)
    assert (against.better, against.worse, against.interval) == (1, 19, None)


def test_an_invented_label_counts_in_the_difference_over_all_labels() -> None:
    ours = _report({"liver": [0.9] * 4, "lesion": [0.5, 0.5, 0.5, 0.0]})
    other = _report({"liver": [0.9] * 4, "lesion": [0.5, 0.5, 0.5, None]})
    overall = next(d for d in compare(ours, other) if d.overall and d.metric == "dice")
    assert overall.difference == pytest.approx((0.375 - 0.5) / 2)


def test_where_every_case_has_every_label_the_interval_is_that_of_paired_case_means() -> None:
    a, b = RNG.random((2, 12, 3))
    ours, other = (_report({n: list(t[:, i]) for i, n in enumerate("abc")}) for t in (a, b))
    overall = next(d for d in compare(ours, other) if d.overall and d.metric == "dice")
    names = [f"c{i}" for i in range(12)]
    paired = intervals([[d] for d in (a - b).mean(1)], names, BootstrapSample())[0]
    assert overall.interval == pytest.approx(paired)
