"""The metrics by name: those in the box and those of plugins.

This module imports no NumPy, so that the command line lists metrics quickly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from ctseg import plugins
from ctseg.errors import BadInput, UnknownName
from ctseg.extension_specs import MetricSpec

CHEAP = ("dice", "iou")
"""Metrics of validation during training."""
DEFAULT = ("dice", "iou", "hd95", "surface_distance", "surface_dice")
"""Default metrics of `ctseg evaluate`."""
REGRESSION = ("mse", "mae", "psnr")
"""Metrics of a regression task, whose targets have no labels."""
OF_VALUES = "regression"
"""The group of metrics for the values of a regression; all others are for labels."""


def metric(name: str) -> MetricSpec:
    """The metric of that name.

    Raises:
        UnknownName: no metric has the name.
        NameClash: two plugins claim it.
    """
    return cast(MetricSpec, plugins.registry().get("metric", name).spec)


def names() -> tuple[str, ...]:
    """Every metric, those in the box first."""
    return tuple(plugins.registry().entries("metric"))


def groups() -> tuple[str, ...]:
    """Every group of metrics."""
    return tuple(dict.fromkeys(_group(name) for name in names()))


def labels_only() -> tuple[str, ...]:
    """Every metric of labels: what `all` stands for."""
    return tuple(name for name in names() if _group(name) != OF_VALUES)


def resolve(chosen: Iterable[str] | str | None) -> tuple[str, ...]:
    """Metric names in the order of the catalogue, from names and groups; `all` means all metrics of labels.

    Args:
        chosen: a list, or one string separated by commas; None for the default.

    Raises:
        UnknownName: a name is neither a metric nor a group.
        NameClash: two plugins claim a name.
        BadInput: there is no name.
    """
    if chosen is None:
        return DEFAULT
    known = names()
    found: set[str] = set()
    for word in filter(None, (w.strip() for w in _words(chosen))):
        if word == "all":
            found.update(labels_only())
        elif word in groups():
            found.update(in_group(known, word))
        elif word in known:
            found.add(metric(word).name)
        else:
            raise UnknownName("metric", word, [*known, *groups(), "all"])
    if not found:
        raise BadInput("No metric was named.", hint=f"Name some of: {', '.join(known)}")
    return tuple(name for name in known if name in found)


def in_group(chosen: Iterable[str], group: str) -> tuple[str, ...]:
    """The names that belong to a group."""
    return tuple(name for name in chosen if _group(name) == group)


def _words(chosen: Iterable[str] | str) -> Iterable[str]:
    return chosen.split(",") if isinstance(chosen, str) else chosen


def _group(name: str) -> str:
    return cast(MetricSpec, plugins.registry().entries("metric")[name].spec).group
