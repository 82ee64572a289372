"""Counts how often each value occurs in each group of voxels, for percentiles in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_ENTRIES = 2**22
"""Pairs of group and value that are counted one by one; more are joined with their neighbours."""
_MANTISSA = 23
_SIGN = np.uint32(1 << 31)
_WORD = np.uint64(32)
_VALUE = np.uint64(0xFFFFFFFF)
Keys = NDArray[np.uint64]
Counts = NDArray[np.int64]


class ValueCounts:
    """Counts of the values in each group.

    Values are counted as 32-bit floats, which hold whole numbers up to 2^24 exactly. If there are more than `most`
    pairs of group and value, the last bit of all values is dropped, and so on until they fit: a histogram whose bins
    are proportional to the value.

    Attributes:
        dropped: bits that were dropped.
    """

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._most = most
        self._keys: Keys = np.empty(0, np.uint64)
        self._counts: Counts = np.empty(0, np.int64)
        self._new: list[tuple[Keys, Counts]] = []
        self.dropped = 0

    @property
    def error(self) -> float:
        """Largest relative error of a percentile; 0 if values are counted one by one."""
        return 2.0 ** (self.dropped - 1 - _MANTISSA) if self.dropped else 0.0

    def add(
        self, groups: NDArray[np.int64], values: NDArray[Any], counts: Counts | None = None
    ) -> None:
        """Count values.

        Args:
            groups: the group of each value, below 2^31.
            values: finite.
            counts: how often each occurs; once without it.
        """
        keys = (groups.astype(np.uint64) << _WORD) | _ordered(values)
        self._new.append(_joined(self._coarse(keys), counts))
        if sum(len(keys) for keys, _ in self._new) > self._most:
            self._compact()

    def of(self, groups: Collection[int]) -> tuple[NDArray[np.float64], Counts]:
        """The values of some groups together, ascending, and how often each occurs."""
        if self._new:
            self._compact()
        ends = [
            np.searchsorted(self._keys, np.array([group, group + 1], np.uint64) << _WORD)
            for group in groups
        ]
        keys = [self._keys[first:last] & _VALUE for first, last in ends]
        counts = [self._counts[first:last] for first, last in ends]
        if not keys:
            return np.empty(0), np.empty(0, np.int64)
        together, each = _joined(np.concatenate(keys), np.concatenate(counts))
        return _values_of(together | np.uint64(1 << self.dropped >> 1)), each

    def _coarse(self, keys: Keys) -> Keys:
        bits = np.uint64(self.dropped)
        coarse: Keys = keys >> bits << bits
        return coarse

    def _compact(self) -> None:
        keys = np.concatenate([self._keys, *(self._coarse(keys) for keys, _ in self._new)])
        counts = np.concatenate([self._counts, *(counts for _, counts in self._new)])
        self._new = []
        keys, counts = _joined(keys, counts)
        while len(keys) > self._most and self.dropped < _MANTISSA:
            self.dropped += 1
            keys, counts = _joined(self._coarse(keys), counts)
        self._keys, self._counts = keys, counts


def quantiles(
    values: NDArray[np.float64], counts: Counts, shares: Sequence[float]
) -> NDArray[np.float64]:
    """Quantiles of counted values, interpolated between neighbours in order as `numpy.quantile` does by default.

    Args:
        values: ascending.
        counts: how often each occurs.
        shares: of the voxels, 0 to 1.
    """
    ends = np.cumsum(counts)
    place = np.asarray(shares) * (int(ends[-1]) - 1)
    below = np.floor(place)
    low = values[np.searchsorted(ends, below, side="right")]
    high = values[np.searchsorted(ends, np.ceil(place), side="right")]
    out: NDArray[np.float64] = low + (high - low) * (place - below)
    return out


def _joined(keys: Keys, counts: Counts | None) -> tuple[Keys, Counts]:
    """The distinct keys, ascending, and the sum of the counts of each."""
    if counts is None:
        return np.unique(keys, return_counts=True)
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[first], np.add.reduceat(counts, first)


def _ordered(values: NDArray[Any]) -> Keys:
    """Numbers in the order of the values: the bits of a float, with those of negative ones reversed."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # -0 becomes 0
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return ordered.astype(np.uint64)


def _values_of(keys: Keys) -> NDArray[np.float64]:
    ordered = keys.astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered & ~_SIGN, ~ordered)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)
