"""Comparison of two predictions of the same cases: how much better one is, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.metrics import catalogue
from ctseg.metrics.bootstrap import BootstrapSample, Interval, intervals
from ctseg.metrics.report import Report

EXACT = 200
"""Most differences for the exact test."""
MEAN = "mean"
"""Name of the row over all labels: the mean of each case over the labels that have a score."""


@dataclass(frozen=True)
class Difference:
    """One metric of one label, first prediction minus the second, over the cases that have a score in both.

    Attributes:
        label: name of the label, or `mean` for the mean of each case over its labels.
        prediction, other: means over these cases.
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
    groups = [case.group or case.case for case in report.cases]
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
                resampling or BootstrapSample(),
            )
            if difference is not None:
                rows.append(replace(difference, overall=label is None))
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
    resampling: BootstrapSample,
) -> Difference | None:
    """The difference of one label over the cases with a score in both predictions; None without such cases."""
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
    """Correct the p-values of a metric's labels for their number (Holm 1979)."""
    tested = [r for r in rows if not r.overall and r.p_value is not None]
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, row in enumerate(sorted(tested, key=lambda r: r.p_value or 0.0)):
        assert row.p_value is not None
        highest = max(highest, min(1.0, row.p_value * (len(tested) - rank)))
        corrected[row.label] = highest
    return [r if r.overall else replace(r, p_holm=corrected.get(r.label)) for r in rows]
