"""The metrics by name: their meaning, whether higher or lower is better, and the score of a missed structure.

This module imports no NumPy, so that the command line lists metrics quickly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ctseg.errors import BadInput, UnknownName

Group = Literal["overlap", "surface", "centreline", "instances", "regression"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: name in options and JSON.
        title: column header.
        group: group of metrics that are computed together.
        better: whether higher or lower is better; None where 0 is best and the sign gives the direction of the error.
        worst: score of a structure that only one of the two maps has; None if it is computed as usual.
        summary: description in one line.
    """

    name: str
    title: str
    group: Group
    better: Literal["higher", "lower"] | None
    worst: float | Literal["diagonal"] | None
    summary: str


METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("dice", "Dice", "overlap", "higher", 0.0, "2|A and B| / (|A| + |B|)"),
        Metric("iou", "IoU", "overlap", "higher", 0.0, "|A and B| / |A or B|"),
        Metric(
            "precision", "precision", "overlap", "higher", 0.0, "fraction of the prediction that is right"
        ),
        Metric("recall", "recall", "overlap", "higher", 0.0, "fraction of the reference that was found"),
        Metric(
            "volume_difference_ml", "difference ml", "overlap", None, None,
            "predicted less reference volume, ml",
        ),
        Metric(
            "volume_difference", "difference", "overlap", None, None,
            "the same as a fraction of the reference; none where the reference is empty",
        ),
        Metric(
            "hd95", "HD95 mm", "surface", "lower", "diagonal",
            "distance within which 95 % of either surface lies from the other",
        ),
        Metric(
            "hausdorff", "HD mm", "surface", "lower", "diagonal",
            "the largest distance from either surface to the other",
        ),
        Metric(
            "surface_distance", "ASD mm", "surface", "lower", "diagonal",
            "mean distance between the surfaces, both ways",
        ),
        Metric(
            "surface_dice", "surface Dice", "surface", "higher", 0.0,
            "fraction of both surfaces within the tolerance of the other",
        ),
        Metric(
            "centreline_dice", "clDice", "centreline", "higher", 0.0,
            "overlap of each centreline with the other structure",
        ),
        Metric(
            "adapted_rand_error", "ARE", "instances", "lower", 1.0,
            "1 - F-score of the pairs of voxels that share an instance",
        ),
        Metric(
            "average_precision", "AP", "instances", "higher", 0.0,
            "TP / (TP + FP + FN) of instances matched by IoU",
        ),
        Metric("mse", "MSE", "regression", "lower", None, "mean squared error"),
        Metric("mae", "MAE", "regression", "lower", None, "mean absolute error"),
        Metric("psnr", "PSNR dB", "regression", "higher", None, "peak signal-to-noise ratio"),
    )
}  # fmt: skip

CHEAP = ("dice", "iou")
"""Metrics of validation during training."""
DEFAULT = ("dice", "iou", "hd95", "surface_distance", "surface_dice")
"""Default metrics of `ctseg evaluate`."""
REGRESSION = ("mse", "mae", "psnr")
"""Metrics of a regression task, whose targets have no labels."""
GROUPS: tuple[Group, ...] = ("overlap", "surface", "centreline", "instances", "regression")
ALL = tuple(name for name, metric in METRICS.items() if metric.group != "regression")


def resolve(names: Iterable[str] | str | None) -> tuple[str, ...]:
    """Metric names in the order of the catalogue, from names and groups; `all` means all metrics of labels.

    Args:
        names: a list, or one string separated by commas; None for the default.

    Raises:
        UnknownName: a name is neither a metric nor a group.
        BadInput: there is no name.
    """
    if names is None:
        return DEFAULT
    words = [w.strip() for w in (names.split(",") if isinstance(names, str) else names)]
    chosen: set[str] = set()
    for word in filter(None, words):
        if word == "all":
            chosen.update(ALL)
        elif word in GROUPS:
            chosen.update(name for name, metric in METRICS.items() if metric.group == word)
        elif word in METRICS:
            chosen.add(word)
        else:
            raise UnknownName("metric", word, [*METRICS, *GROUPS, "all"])
    if not chosen:
        raise BadInput("No metric was named.", hint=f"Name some of: {', '.join(METRICS)}")
    return tuple(name for name in METRICS if name in chosen)


def in_group(names: Iterable[str], group: Group) -> tuple[str, ...]:
    """The names that belong to a group."""
    return tuple(name for name in names if METRICS[name].group == group)
