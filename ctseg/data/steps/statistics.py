"""Statistics of a scan that comes part by part, as often as it is asked for: the memory of a part, the exact values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ctseg.data.steps.base import Array, Parts, Record, Zyx

Values = Callable[[], Iterable[Array]]
"""Gives all values anew at each call, in parts of any shape."""
BINS = 2**14
FEW = 2**21
"""So many values are sorted at once."""


def percentiles_of(values: Values, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Two percentiles, between ranks by linear interpolation as `numpy.percentile`; each pass narrows them down."""
    low, high, count = _range(values())
    if not count:
        return 0.0, 0.0
    if percentiles == (0.0, 100.0):
        return low, high
    if count <= FEW:
        kept = np.concatenate([part.ravel() for part in values()])
        first, second = np.percentile(kept.astype(np.float64), percentiles)
        return float(first), float(second)
    ranks = [p / 100 * (count - 1) for p in percentiles]
    whole = sorted({r for rank in ranks for r in (math.floor(rank), math.ceil(rank))})
    found = {rank: _ranked(values, rank, low, high) for rank in whole}
    first, second = (
        found[math.floor(r)] + (found[math.ceil(r)] - found[math.floor(r)]) * (r - math.floor(r))
        for r in ranks
    )
    return first, second


def mean_and_deviation(values: Values, low: float, high: float) -> tuple[float, float]:
    """Of values clipped to a range, in float64; the deviation is that of the population."""
    total, count = 0.0, 0
    for part in _clipped(values, low, high):
        total, count = total + float(part.sum()), count + part.size
    mean = total / max(count, 1)
    squares = sum(float(np.square(part - mean).sum()) for part in _clipped(values, low, high))
    return mean, math.sqrt(squares / max(count, 1))


def slice_ranges(parts: Parts, axis: int | None, shape_zyx: Zyx) -> tuple[Array, Array]:
    """The least and greatest value of each channel, [C, N]: of each slice across an axis, or of all (N = 1)."""
    low: Array | None = None
    high: Array | None = None
    for start, part in parts():
        if low is None or high is None:
            count = 1 if axis is None else shape_zyx[axis]
            low = np.full((len(part), count), np.inf)
            high = np.full((len(part), count), -np.inf)
        others = (1, 2, 3) if axis is None else tuple(a for a in (1, 2, 3) if a != axis + 1)
        span = slice(start, start + part.shape[1]) if axis == 0 else slice(None)
        least, most = part.min(others), part.max(others)
        if axis is None:
            least, most = least[:, None], most[:, None]
        low[:, span] = np.minimum(low[:, span], least)
        high[:, span] = np.maximum(high[:, span], most)
    assert low is not None
    assert high is not None
    return low, high


def clipped(values_czyx: Array, record: Record, axis: int | None, part: slice) -> Array:
    """Values clipped to what `slice_ranges` found, kept as `low` and `high` of a record.

    Args:
        part: the slices across the axis that these values are.
    """
    shape = [len(values_czyx), 1, 1, 1]
    if axis is not None:
        shape[axis + 1] = values_czyx.shape[axis + 1]
    bounds = (np.asarray(record[key], np.float32)[:, part] for key in ("low", "high"))
    low, high = (bound.reshape(shape) for bound in bounds)
    out: Array = np.clip(values_czyx, low, high)
    return out


def _clipped(values: Values, low: float, high: float) -> Iterator[Array]:
    for part in values():
        yield np.clip(part, low, high).astype(np.float64)


def _range(parts: Iterable[Array]) -> tuple[float, float, int]:
    low, high, count = math.inf, -math.inf, 0
    for part in parts:
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
            count += part.size
    return low, high, count


def _ranked(values: Values, rank: int, low: float, high: float) -> float:
    """The value of a rank (from 0), known to lie within low..high."""
    below = 0  # values under `low`
    while low < high:
        edges = np.linspace(low, high, BINS + 1)
        counts = np.zeros(BINS, np.int64)
        for part in values():
            chosen = part[(part >= low) & (part <= high)]
            place = np.searchsorted(edges, chosen.ravel(), "right") - 1
            counts += np.bincount(np.minimum(place, BINS - 1), minlength=BINS)
        reached = below + np.cumsum(counts)
        at = int(np.searchsorted(reached, rank, "right"))
        below = int(reached[at] - counts[at])
        pick = _within(float(edges[at]), float(edges[at + 1]), closed=at == BINS - 1)
        inside = (pick(part) for part in values())
        if counts[at] <= FEW:
            return float(np.sort(np.concatenate(list(inside)))[rank - below])
        low, high, _ = _range(inside)
    return low


def _within(first: float, end: float, *, closed: bool) -> Callable[[Array], Array]:
    """Picks the values from `first` to before `end`, or up to it, compared in float64 as they are sorted into bins.

    A Python number would be rounded to the type of the array first, and a value at the edge of its bin lost.
    """

    def pick(part: Array) -> Array:
        flat = part.ravel()
        wide = flat.astype(np.float64, copy=False)
        chosen: Array = flat[(wide >= first) & ((wide <= end) if closed else (wide < end))]
        return chosen

    return pick
