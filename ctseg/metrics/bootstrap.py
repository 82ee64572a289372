"""Confidence intervals of means by resampling cases, or groups of cases (Efron and Tibshirani, 1993).

Scans of one patient are not independent, so groups are drawn with replacement, each with all of its cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput

Interval = tuple[float, float]
Method = Literal["bca", "percentile"]
LEAST_GROUPS = 3
"""Fewest groups for an interval; resamples of fewer would hardly differ."""
CHUNK = 2**22


@dataclass(frozen=True)
class BootstrapSample:
    """Settings of bootstrap intervals.

    Attributes:
        confidence: confidence level of the interval, between 0 and 1.
        resamples: number of resamples.
        method: `bca` (bias corrected and accelerated, Efron 1987) or `percentile`.
        seed: seed of the resampling; the same seed gives the same interval.
    """

    confidence: float = 0.95
    resamples: int = 2000
    method: Method = "bca"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise BadInput(f"The confidence must lie between 0 and 1, not {self.confidence}.")
        if self.resamples < 100:
            raise BadInput(f"An interval needs at least 100 resamples, not {self.resamples}.")
        if self.method not in ("bca", "percentile"):
            raise BadInput(
                f"'{self.method}' is not a bootstrap method.", hint="There are: bca, percentile"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def intervals(
    table: Sequence[Sequence[float | None]],
    groups: Sequence[str],
    resampling: BootstrapSample,
) -> list[Interval | None]:
    """Intervals of the mean of each column over the rows with a value, and of the mean of these means.

    Args:
        table: one row per case, one column per label; None where the case does not have the label.
        groups: group of each row.

    Returns:
        one interval per column and one for the mean of the columns; None where fewer than three groups have values.
    """
    columns = len(table[0]) if table else 0
    if not columns:
        return [None]
    sums, counts = _by_group(table, groups)
    used = counts.sum(0) > 0
    drawn = _resample(sums, counts, resampling)
    estimate = _statistics(sums.sum(0)[None], counts.sum(0)[None])[0]
    left_out = _statistics(sums.sum(0) - sums, counts.sum(0) - counts)
    enough = (counts > 0).sum(0) >= LEAST_GROUPS
    enough = np.append(enough, bool(used.any()) and bool(enough[used].all()))
    return [
        _interval(drawn[:, i], float(estimate[i]), left_out[:, i], resampling)
        if enough[i]
        else None
        for i in range(columns + 1)
    ]


def difference_interval(
    table: Sequence[Sequence[float | None]],
    other: Sequence[Sequence[float | None]],
    groups: Sequence[str],
    resampling: BootstrapSample,
) -> Interval | None:
    """The interval of the mean of the column means of a table less that of another one, which has the same rows.

    Both are taken over the same resamples of groups. None where a column has values in fewer than three groups.
    """
    both = [_by_group(one, groups) for one in (table, other)]
    for _, counts in both:
        found = (counts > 0).sum(0)
        if not found.any() or (found[found > 0] < LEAST_GROUPS).any():
            return None
    drawn = [_resample(sums, counts, resampling)[:, -1] for sums, counts in both]
    whole = [_statistics(sums.sum(0)[None], counts.sum(0)[None])[0, -1] for sums, counts in both]
    left_out = [
        _statistics(sums.sum(0) - sums, counts.sum(0) - counts)[:, -1] for sums, counts in both
    ]
    return _interval(
        drawn[0] - drawn[1], float(whole[0] - whole[1]), left_out[0] - left_out[1], resampling
    )


def _by_group(
    table: Sequence[Sequence[float | None]], groups: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts [groups, columns] of the values that are not None."""
    values = np.array([[np.nan if v is None else v for v in row] for row in table], np.float64)
    _, index = np.unique(np.array(groups), return_inverse=True)
    present = ~np.isnan(values)
    sums = np.zeros((index.max() + 1, values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, index, np.where(present, values, 0.0))
    np.add.at(counts, index, present.astype(np.float64))
    return sums, counts


def _resample(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resampling: BootstrapSample
) -> NDArray[np.float64]:
    """The statistics of each resample, [resamples, columns + 1]; NaN where a resample has no value of a column."""
    rng = np.random.default_rng(resampling.seed)
    size = len(sums)
    parts, remaining = [], resampling.resamples
    while remaining:
        count = min(remaining, max(1, CHUNK // size))
        drawn = rng.integers(0, size, (count, size))
        times = np.zeros((count, size))
        np.add.at(times, (np.arange(count)[:, None], drawn), 1.0)
        parts.append(_statistics(times @ sums, times @ counts))
        remaining -= count
    return np.concatenate(parts)


def _statistics(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of the columns, and the mean of these means, [n, columns + 1]."""
    means = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    present = ~np.isnan(means)
    total = np.where(present, means, 0.0).sum(1)
    overall = np.full(len(means), np.nan)
    np.divide(total, present.sum(1), out=overall, where=present.any(1))
    return np.column_stack([means, overall])


def _interval(
    drawn: NDArray[np.float64],
    estimate: float,
    left_out: NDArray[np.float64],
    resampling: BootstrapSample,
) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    tail = (1 - resampling.confidence) / 2
    levels = np.array([tail, 1 - tail])
    if resampling.method == "bca":
        levels = _bca_levels(drawn, estimate, left_out[~np.isnan(left_out)], levels)
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)


def _bca_levels(
    drawn: NDArray[np.float64],
    estimate: float,
    left_out: NDArray[np.float64],
    levels: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The levels of the percentiles that correct bias and skewness (Efron 1987, equations 2.3 and 6.6).

    If no resample lies on one side of the estimate (all values are equal), nothing is corrected.
    """
    from scipy.special import ndtr, ndtri

    below = (np.count_nonzero(drawn < estimate) + 0.5 * np.count_nonzero(drawn == estimate)) / len(
        drawn
    )
    away = left_out.mean() - left_out
    spread = float((away**2).sum()) ** 1.5
    if not 0 < below < 1 or spread < 1e-300:
        return levels
    bias = float(ndtri(below))
    acceleration = float((away**3).sum()) / (6 * spread)
    shifted = bias + ndtri(levels)
    out: NDArray[np.float64] = ndtr(bias + shifted / (1 - acceleration * shifted))
    return out
