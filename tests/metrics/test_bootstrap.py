"""Intervals against SciPy's bootstrap; groups and missing values by reasoning."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from ctseg.errors import BadInput
from ctseg.metrics.bootstrap import BootstrapSample, intervals

VALUES = np.random.default_rng(0).beta(8, 2, 25)
NAMES = [f"c{i}" for i in range(len(VALUES))]


@pytest.mark.parametrize("method", ["bca", "percentile"])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_are_those_of_scipy_but_for_the_draws(method: str, confidence: float) -> None:
    resampling = BootstrapSample(confidence, 20000, method, 1)  # type: ignore[arg-type]
    column, mean = intervals([[v] for v in VALUES], NAMES, resampling)
    theirs = bootstrap(
        (VALUES,), np.mean, n_resamples=20000, confidence_level=confidence,
        method={"bca": "BCa"}.get(method, method), rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert column == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)
    assert mean == column


def test_a_seed_gives_one_interval() -> None:
    table = [[v] for v in VALUES]
    first = intervals(table, NAMES, BootstrapSample(resamples=300, seed=4))
    assert first == intervals(table, NAMES, BootstrapSample(resamples=300, seed=4))
    assert first != intervals(table, NAMES, BootstrapSample(resamples=300, seed=5))


def test_scans_of_one_patient_are_drawn_together() -> None:
    once = intervals([[v] for v in VALUES], NAMES, BootstrapSample(resamples=2000))
    doubled = intervals(
        [[v] for v in VALUES for _ in range(2)],
        [n for n in NAMES for _ in range(2)],
        BootstrapSample(),
    )
    assert doubled == [pytest.approx(i) for i in once]  # copies of a case add nothing
    apart = [f"{n}{i}" for n in NAMES for i in range(2)]
    narrower = intervals([[v] for v in VALUES for _ in range(2)], apart, BootstrapSample())
    assert narrower[0] is not None and once[0] is not None
    assert narrower[0][1] - narrower[0][0] < 0.85 * (once[0][1] - once[0][0])


def test_labels_that_few_cases_have() -> None:
    rows = [[0.5, None, 0.2], [0.6, None, None], [0.7, 0.3, None], [0.9, None, 0.1]]
    found = intervals(rows, list("abcd"), BootstrapSample(resamples=500))
    assert found[0] is not None and found[1:] == [None, None, None]
    assert intervals([], [], BootstrapSample()) == [None]
    same = intervals([[0.5]] * 4, list("abcd"), BootstrapSample(resamples=200))
    assert same == [(0.5, 0.5), (0.5, 0.5)]


@pytest.mark.parametrize("bad", [{"confidence": 1.0}, {"resamples": 10}, {"method": "jackknife"}])
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        BootstrapSample(**bad)  # type: ignore[arg-type]
