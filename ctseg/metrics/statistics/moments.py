"""Mean, deviation and extremes of groups of values that arrive in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Moments of each group.

    Attributes:
        count: number of values.
        mean: their mean.
        squares: sum of their squared deviations from it.
        low, high: smallest and largest value.
    """

    count: Floats
    mean: Floats
    squares: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(
        cls, groups: NDArray[np.int64], values: NDArray[Any], counts: NDArray[np.int64] | None
    ) -> Moments:
        """The moments of some values; arguments as in `ValueCounts.add`."""
        size = int(groups.max(initial=-1)) + 1
        values = values.astype(np.float64)
        count = np.bincount(groups, counts, size).astype(np.float64)
        sums = np.bincount(groups, values if counts is None else values * counts, size)
        mean = sums / np.maximum(count, 1)
        away = (values - mean[groups]) ** 2
        away = away if counts is None else away * counts
        squares: Floats = np.bincount(groups, away, size).astype(np.float64)
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        np.minimum.at(low, groups, values)
        np.maximum.at(high, groups, values)
        return cls(count, mean, squares, low, high)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both together, as by Chan, Golub & LeVeque (Stanford STAN-CS-79-773, 1979)."""
        size = max(len(self.count), len(other.count))
        one, two = self._grown(size), other._grown(size)
        count = one.count + two.count
        share = two.count / np.maximum(count, 1)
        apart = two.mean - one.mean
        return Moments(
            count,
            one.mean + apart * share,
            one.squares + two.squares + apart**2 * one.count * share,
            np.minimum(one.low, two.low),
            np.maximum(one.high, two.high),
        )

    @property
    def arrays(self) -> tuple[Floats, ...]:
        """Count, mean, squares, low and high."""
        return self.count, self.mean, self.squares, self.low, self.high

    def _grown(self, size: int) -> Moments:
        more = (0, size - len(self.count))
        if not more[1]:
            return self
        empty = (0.0, 0.0, 0.0, np.inf, -np.inf)
        filled = zip(self.arrays, empty, strict=True)
        return Moments(*(np.pad(a, more, constant_values=value) for a, value in filled))

    def joined(self, groups: Sequence[int]) -> Moments:
        """The moments of some groups together, as one group."""
        total = NOTHING._grown(1)
        for group in groups:
            total += Moments(*(a[group : group + 1] for a in self.arrays))
        return total


NOTHING = Moments(*(np.zeros(0) for _ in range(5)))
