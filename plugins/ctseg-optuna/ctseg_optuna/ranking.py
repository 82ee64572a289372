"""Which settings are best: the good ones are trained again with other seeds, as a single score is partly luck."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

SEED = "seed"
"""Attribute of a trial that repeats another with a seed of its own: how many trials had the values before it."""
PLAN = "plan"
"""Attribute of the trial that has the settings of the plan."""
REPEATED = 3
"""So many of the best settings are trained again, beside the plan."""
GONE = (TrialState.FAIL, TrialState.PRUNED)


@dataclass(frozen=True)
class Ranked:
    """Values, and the trials that have them.

    Attributes:
        first: the first complete trial.
        scores: of the complete trials.
        begun: trials that are complete, under way or queued.
        error: standard error of the mean, from the spread of all that was repeated; 0 while nothing was.
    """

    first: FrozenTrial
    scores: tuple[float, ...]
    begun: int
    error: float = 0.0

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)

    def __str__(self) -> str:
        if len(self.scores) == 1:
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} ± {self.error:.4f} ({len(self.scores)} seeds)"


def ranking(trials: Sequence[FrozenTrial]) -> list[Ranked]:
    """The settings with a complete trial, the best first: by the mean of their trials less its standard error.

    The standard deviation of a trial is pooled over all settings that have several; so a setting of one good trial
    does not pass one that was as good three times.
    """
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state not in GONE:
            groups.setdefault(_values(trial), []).append(trial)
    complete = {
        key: [trial for trial in group if trial.state == TrialState.COMPLETE]
        for key, group in groups.items()
    }
    scores = {key: tuple(float(t.value or 0) for t in done) for key, done in complete.items()}
    spread = _pooled([own for own in scores.values() if own])
    found = [
        Ranked(done[0], scores[key], len(groups[key]), spread / math.sqrt(len(done)))
        for key, done in complete.items()
        if done
    ]
    return sorted(found, key=lambda one: (one.error - one.mean, one.first.number))


def of_plan(ranked: Sequence[Ranked]) -> Ranked | None:
    """Those of the plan; None where it is not complete, or lies outside the space."""
    return next((one for one in ranked if one.first.user_attrs.get(PLAN)), None)


def to_repeat(trials: Sequence[FrozenTrial]) -> Ranked | None:
    """The settings that were trained least often among the plan and those of the best means; the better first.

    None before two settings have a complete trial.
    """
    ranked = sorted(ranking(trials), key=lambda one: -one.mean)
    if len(ranked) < 2:
        return None
    plan = of_plan(ranked)
    others = [one for one in ranked if one is not plan][:REPEATED]
    return min([*others, *([plan] if plan else [])], key=lambda one: (one.begun, -one.mean))


def _values(trial: FrozenTrial) -> str:
    queued: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return json.dumps(trial.params or queued, sort_keys=True)


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    """Standard deviation within groups."""
    squares, freedom = 0.0, 0
    for scores in groups:
        mean = sum(scores) / len(scores)
        squares += sum((score - mean) ** 2 for score in scores)
        freedom += len(scores) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0
