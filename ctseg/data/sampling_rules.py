"""How patches are drawn: what the run file states, as groups of places and their probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctseg.config import TrainConfig
from ctseg.data.patch_centres import BACKGROUND
from ctseg.data.prepared_case import Prepared
from ctseg.errors import BadInput, ConfigError, UnknownName
from ctseg.specs import Task


@dataclass(frozen=True)
class Rule:
    """How patches are drawn.

    Attributes:
        foreground: share of patches centred on a label, every label alike; the others lie anywhere.
        positive: share of patches centred on a label, every label alike; the others on background. It replaces
            `foreground` where it is not None.
        labels: (group, probability) of the centre's label; replaces both where it is not empty.
        min_foreground: patches with no more than this share of labelled voxels are drawn again ...
        slack: ... but for this share of them.
    """

    foreground: float = 0.5
    positive: float | None = None
    labels: tuple[tuple[int, float], ...] = ()
    min_foreground: float = 0.0
    slack: float = 0.0


def rule_of(config: TrainConfig, task: Task) -> Rule:
    """The rule that the run file states.

    Raises:
        UnknownName: probabilities for a label that the task does not have.
        ConfigError: two rules at once.
    """
    if config.positive_negative is not None and config.label_probabilities:
        raise ConfigError(
            "Both 'train.positive_negative' and 'train.label_probabilities' say where patches are centred.",
            hint="Leave one of them out.",
        )
    positive = None
    if config.positive_negative is not None:
        weight, other = config.positive_negative
        positive = weight / (weight + other)
    return Rule(
        config.foreground,
        positive,
        _label_probabilities(config.label_probabilities, task),
        config.min_foreground,
        config.slack,
    )


def _label_probabilities(given: Mapping[str, float], task: Task) -> tuple[tuple[int, float], ...]:
    by_name = {"0": BACKGROUND, "background": BACKGROUND}
    for group, label in enumerate(task.foreground, start=1):
        by_name |= {str(value): group for value in (*label.values, label.value)}
    if task.kind == "classes":
        by_name[task.labels[0].name] = BACKGROUND
    by_name |= {label.name: group for group, label in enumerate(task.foreground, start=1)}
    sums: dict[int, float] = {}
    for key, weight in given.items():
        if key not in by_name:
            raise UnknownName("label", key, by_name)
        sums[by_name[key]] = sums.get(by_name[key], 0.0) + weight
    total = math.fsum(sums.values())
    return tuple((group, weight / total) for group, weight in sorted(sums.items()) if weight)


def check_rule(rule: Rule, cases: Sequence[Prepared], task: Task) -> None:
    """Refuse a rule that asks for what no case holds.

    Raises:
        BadInput: with the label.
    """
    names = {BACKGROUND: "the background"} | {
        group: f"'{label.name}'" for group, label in enumerate(task.foreground, start=1)
    }
    for group, _ in rule.labels:
        if not any(group in case.groups for case in cases):
            raise BadInput(
                f"'train.label_probabilities' asks for {names[group]}, of which no training case has a voxel.",
                hint="Leave it out, or train on other cases.",
            )
    if rule.positive is not None and rule.positive > 0 and not any(case.labels for case in cases):
        raise BadInput("'train.positive_negative' asks for labels, of which no case has a voxel.")
