"""The best that a Hounsfield interval can do for each label: what a model has to beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.volume.volume import Volume

_BIN = 5
_EDGES = np.arange(-1050, 3100 + _BIN, _BIN)


@dataclass(frozen=True)
class Threshold:
    """An interval of intensities, both ends within, and how well it finds one label.

    Attributes:
        low, high: the interval.
        train_dice: Dice over all training voxels, which the interval was chosen by.
        dice: mean Dice over the test cases that have the label; NaN where none has.
    """

    low: int
    high: int
    train_dice: float
    dice: float


def threshold_baseline(
    train: Iterable[tuple[Volume, Volume]],
    test: Iterable[tuple[Volume, Volume]],
    labels: Mapping[str, int],
) -> dict[str, Threshold]:
    """For each foreground label the interval with the highest Dice on the training cases, and its Dice on others.

    All intervals of whole bins of 5 are compared at once, through cumulative histograms.

    Args:
        train, test: scans, [Z, Y, X] in Hounsfield units, and their label maps.
        labels: name and value; the value 0 is left out.

    Raises:
        BadInput: no training case.
    """
    wanted = {name: value for name, value in labels.items() if value != 0}
    total = np.zeros(len(_EDGES) - 1, np.int64)
    inside = {name: np.zeros_like(total) for name in wanted}
    for image, label in train:
        total += _histogram(image.array)
        for name, value in wanted.items():
            inside[name] += _histogram(image.array[label.array == value])
    if not total.any():
        raise BadInput("A threshold needs at least one training case.")
    intervals = {name: _best(counts, total) for name, counts in inside.items()}
    scores: dict[str, list[float]] = {name: [] for name in wanted}
    for image, label in test:
        for name, value in wanted.items():
            truth = label.array == value
            if truth.any():
                low, high, _ = intervals[name]
                found = (image.array >= low) & (image.array <= high)
                scores[name].append(2 * int((found & truth).sum()) / int(found.sum() + truth.sum()))
    return {
        name: Threshold(*interval, float(np.mean(scores[name])) if scores[name] else float("nan"))
        for name, interval in intervals.items()
    }


def _histogram(values: NDArray[np.generic]) -> NDArray[np.int64]:
    clipped = np.clip(values, _EDGES[0], _EDGES[-1] - 1)
    return np.histogram(clipped, _EDGES)[0].astype(np.int64)


def _best(inside: NDArray[np.int64], total: NDArray[np.int64]) -> tuple[int, int, float]:
    """Low, high and Dice of the best interval: 2 |A and B| / (|A| + |B|) for every pair of bins at once."""
    hits = np.concatenate([[0], np.cumsum(inside)])
    taken = np.concatenate([[0], np.cumsum(total)])
    dice = 2 * (hits[None] - hits[:, None]) / np.maximum(taken[None] - taken[:, None] + hits[-1], 1)
    dice[np.tril_indices(len(hits))] = 0
    low, high = np.unravel_index(int(dice.argmax()), dice.shape)
    return int(_EDGES[low]), int(_EDGES[high]) - 1, float(dice[low, high])
