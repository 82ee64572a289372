"""The metrics by name: what each means, which way is better, and what a missed or invented structure scores.

Nothing here imports NumPy, so that the command line can list them at no cost.
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
        name: as options and JSON spell it.
        title: the head of a column.
        group: metrics that are measured together.
        better: whether more is better; None where the best value is 0 and the sign says in which direction it errs.
        worst: what a structure scores that only one of the two maps has; None where it is measured all the same.
        summary: one line.
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
            "precision", "precision", "overlap", "higher", 0.0, "share of the prediction that is right"
        ),
        Metric("recall", "recall", "overlap", "higher", 0.0, "share of the reference that was found"),
        Metric(
            "volume_difference_ml", "difference ml", "overlap", None, None,
            "predicted less reference volume, ml",
        ),
        Metric(
            "volume_difference", "difference", "overlap", None, None,
            "the same as a share of the reference; none where the reference is empty",
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
            "share of both surfaces within the tolerance of the other",
        ),
        Metric(
            "centreline_dice", "clDice", "centreline", "higher", 0.0,
            "how much of each centreline lies in the other structure",
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
"""What validation during training measures."""
DEFAULT = ("dice", "iou", "hd95", "surface_distance", "surface_dice")
"""What `ctseg evaluate` measures unless it is told otherwise."""
REGRESSION = ("mse", "mae", "psnr")
"""What is measured of a regression task, whose targets have no labels."""
GROUPS: tuple[Group, ...] = ("overlap", "surface", "centreline", "instances", "regression")
ALL = tuple(name for name, metric in METRICS.items() if metric.group != "regression")


def resolve(names: Iterable[str] | str | None) -> tuple[str, ...]:
    """Metric names, in the order of the catalogue, from names and groups; `all` for all of labels.

    Args:
        names: a list, or one string with commas; None for the default.

    Raises:
        UnknownName: neither a metric nor a group.
        BadInput: no name at all.
    """
    if names is None:
        return DEFAULT
    words = [w.strip() for w in (names.split(",") if isinstance(names, str) else names)]
    wanted: set[str] = set()
    for word in filter(None, words):
        if word == "all":
            wanted.update(ALL)
        elif word in GROUPS:
            wanted.update(name for name, metric in METRICS.items() if metric.group == word)
        elif word in METRICS:
            wanted.add(word)
        else:
            raise UnknownName("metric", word, [*METRICS, *GROUPS, "all"])
    if not wanted:
        raise BadInput("No metric was named.", hint=f"Name some of: {', '.join(METRICS)}")
    return tuple(name for name in METRICS if name in wanted)


def in_group(names: Iterable[str], group: Group) -> tuple[str, ...]:
    """Those of the names that belong to a group."""
    return tuple(name for name in names if METRICS[name].group == group)
