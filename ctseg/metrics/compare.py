"""Comparison of two predictions of the same cases: how much better one is, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.metrics import catalogue
from ctseg.metrics.bootstrap import BootstrapSample, Interval, difference_interval, intervals
from ctseg.metrics.report import Report

EXACT = 200
"""Most differences for the exact test."""
MEAN = "mean"
"""Name of the row over all labels."""


@dataclass(frozen=True)
class Difference:
    """One metric of one label, first prediction minus the second, over the cases that have a score in both.

    The row over all labels has the means of the two reports, each over the labels of their mean over the cases. Its
    test asks whether the mean of a case over its labels differs; where labels are in few cases, more cases may be worse
    although the mean is better.

    Attributes:
        label: name of the label, or `mean` for the row over all labels.
        prediction, other: the means.
        difference: difference of the means.
        interval: bootstrap confidence interval of the difference, over groups; None with too few groups.
        cases, groups: their numbers.
        better, worse, equal: number of groups in which the first prediction is better, worse or equal; None where
            neither higher nor lower is better.
        p_value: Wilcoxon signed-rank test, two-sided, over groups; None where no group differs.
        p_holm: the same, Holm-corrected over all labels of the metric (the mean is not one of them).
        unpaired: number of cases with a score in one prediction only, which invented a label.
        overall: whether this is the row over all labels, however a label may be named.
    """

    metric: str
    label: str
    prediction: float
    other: float
    difference: float
    interval: Interval | None
    cases: int
    groups: int
    better: int | None
    worse: int | None
    equal: int
    p_value: float | None
    p_holm: float | None = None
    unpaired: int = 0
    overall: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval) if self.interval else None}


def compare(
    report: Report, other: Report, resampling: BootstrapSample | None = None
) -> tuple[Difference, ...]:
    """Compare two reports on the same cases, by metric and by label, with the mean over the labels last.

    Scans of one group (a patient) are averaged before the test, since they are not independent.

    Raises:
        BadInput: the reports are of different cases.
    """
    ours, theirs = ({c.case: c for c in r.cases} for r in (report, other))
    if set(ours) != set(theirs):
        alone = sorted(set(ours) ^ set(theirs))
        raise BadInput(
            f"The two predictions are not of the same cases: {', '.join(alone[:6])} only in one of them."
        )
    other = replace(other, cases=tuple(theirs[name] for name in ours))
    groups = [case.group or case.case for case in report.cases]
    resampling = resampling or BootstrapSample()
    tables = [
        {
            case.case: {item.label: item.values for item in case.labels}
            for case in (results[name] for name in ours)
        }
        for results in (ours, theirs)
    ]
    out: list[Difference] = []
    for metric in report.metrics:
        if metric not in other.metrics:
            continue
        rows = []
        for label in (*report.labels, None):
            pairs = [tuple(_value(table[case], label, metric) for table in tables) for case in ours]
            difference = _difference(
                metric,
                MEAN if label is None else label,
                pairs,
                groups,
                None if label is None else resampling,
            )
            if difference is not None and label is None:
                difference = _over_labels(difference, (report, other), groups, resampling)
            if difference is not None:
                rows.append(difference)
        out += _holm(rows)
    return tuple(out)


def _value(
    labels: Mapping[str, Mapping[str, float | None]], label: str | None, metric: str
) -> float | None:
    """The score of a label, or the mean over the labels if none is named."""
    if label is not None:
        return labels.get(label, {}).get(metric)
    known = [v for values in labels.values() if (v := values.get(metric)) is not None]
    return sum(known) / len(known) if known else None


def _difference(
    metric: str,
    label: str,
    pairs: Sequence[tuple[float | None, ...]],
    groups: Sequence[str],
    resampling: BootstrapSample | None,
) -> Difference | None:
    """The difference of one label over the cases with a score in both predictions; None without such cases.

    Args:
        resampling: for its interval; None for a difference without one.
    """
    scored = [
        (one, two, group)
        for (one, two), group in zip(pairs, groups, strict=True)
        if one is not None and two is not None
    ]
    if not scored:
        return None
    unpaired = sum((one is None) != (two is None) for one, two in pairs)
    one, two = (np.array([k[i] for k in scored], float) for i in (0, 1))
    names = [k[2] for k in scored]
    delta = one - two
    interval = None
    if resampling is not None:
        interval, _ = intervals([[float(d)] for d in delta], names, resampling)
    _, index = np.unique(np.array(names), return_inverse=True)
    by_group = np.bincount(index, delta) / np.bincount(index)
    higher, lower = int((by_group > 0).sum()), int((by_group < 0).sum())
    better = catalogue.metric(metric).better
    sides: tuple[int | None, int | None] = (None, None)
    if better is not None:
        sides = (higher, lower) if better == "higher" else (lower, higher)
    return Difference(
        metric, label, float(one.mean()), float(two.mean()), float(delta.mean()), interval,
        len(scored), len(by_group), *sides, len(by_group) - higher - lower, signed_rank(by_group), unpaired=unpaired,
    )  # fmt: skip


def _over_labels(
    cases: Difference,
    reports: tuple[Report, Report],
    groups: Sequence[str],
    resampling: BootstrapSample,
) -> Difference:
    """The row over all labels, from the differences of the cases: with the means that the reports state."""
    one, two = (report.mean(cases.metric) for report in reports)
    assert one is not None and two is not None
    tables = [report.table(cases.metric) for report in reports]
    interval = difference_interval(tables[0], tables[1], groups, resampling)
    return replace(
        cases, prediction=one, other=two, difference=one - two, interval=interval, overall=True
    )


def signed_rank(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p of the signed-rank test (Wilcoxon, Biometrics Bulletin 1, 1945); zeros are left out.

    For up to 200 differences p is exact, with or without ties: the probability that equally likely random signs
    give a rank sum at least as extreme. Beyond, it is the normal approximation.

    Returns:
        None where all differences are 0.
    """
    from scipy.stats import rankdata, wilcoxon

    nonzero = differences[differences != 0]
    if not len(nonzero):
        return None
    if len(nonzero) > EXACT:
        return float(wilcoxon(nonzero, method="approx").pvalue)
    ranks = np.round(2 * rankdata(np.abs(nonzero))).astype(np.int64)  # whole numbers, ties included
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1.0
    for rank in ranks.tolist():
        chance[rank:] = (chance[rank:] + chance[: len(chance) - rank]) / 2
        chance[:rank] /= 2
    at = int(ranks[nonzero > 0].sum())
    return min(1.0, 2 * float(min(chance[: at + 1].sum(), chance[at:].sum())))


def _holm(rows: Sequence[Difference]) -> list[Difference]:
    """Correct the p-values of a metric's labels for their number."""
    corrected = holm([None if row.overall else row.p_value for row in rows])
    return [
        row if row.overall else replace(row, p_holm=p)
        for row, p in zip(rows, corrected, strict=True)
    ]


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number (Holm 1979); those that are None do not count."""
    tested = sorted((p, number) for number, p in enumerate(values) if p is not None)
    out: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, number) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        out[number] = highest
    return out


@dataclass(frozen=True)
class Ranked:
    """One of several predictions of the same cases.

    Attributes:
        name, report: of the prediction.
        mean: the mean of the metric.
        interval: its bootstrap confidence interval; None with too few groups.
        against_best: the best prediction minus this one, with p corrected for the number of predictions (Holm); None
            for the best one itself.
    """

    name: str
    report: Report
    mean: float
    interval: Interval | None
    against_best: Difference | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "mean": self.mean,
            "interval": list(self.interval) if self.interval else None,
            "labels": self.report.dice,
            "against_best": None if self.against_best is None else self.against_best.to_dict(),
        }


def rank(
    reports: Mapping[str, Report],
    resampling: BootstrapSample | None = None,
    *,
    metric: str = "dice",
) -> list[Ranked]:
    """Rank predictions of the same cases by the mean of a metric, best first, each compared with the best.

    Raises:
        BadInput: the reports are of different cases, or one has no score.
    """
    means = {name: report.mean(metric) for name, report in reports.items()}
    without = [name for name, mean in means.items() if mean is None]
    if without:
        raise BadInput(
            f"{without[0]} has no {catalogue.metric(metric).title}, so it cannot be ranked."
        )
    known = {name: mean for name, mean in means.items() if mean is not None}
    higher = catalogue.metric(metric).better != "lower"
    order = sorted(known, key=lambda name: known[name], reverse=higher)
    best, found = order[0], []
    for name in order[1:]:
        rows = compare(reports[best], reports[name], resampling)
        found.append(next((d for d in rows if d.overall and d.metric == metric), None))
    corrected = holm([None if d is None else d.p_value for d in found])
    against = [
        None if d is None else replace(d, p_holm=p) for d, p in zip(found, corrected, strict=True)
    ]
    intervals = {name: reports[name].intervals(metric, resampling)[1] for name in order}
    return [
        Ranked(name, reports[name], known[name], intervals[name], difference)
        for name, difference in zip(order, [None, *against], strict=True)
    ]
