"""What to try next: each setting of the plan changed alone, then what a Gaussian process proposes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from ctseg_optuna.space import Space

STARTUP = 5
"""Complete trials before others are proposed by what was learnt, and trials with a score at the same share of their
steps before one is ended early."""
KEPT = 0.75
"""Share of the trials that do not end early."""
JUDGED_AFTER = 40
"""Percent of a trial's steps before it may end early: high learning rates look bad until they fall."""
FLOOR = 4.0
"""Scores count down to so many times the distance of the upper quartile from the median below the median."""
FAILURE = "failure"
"""Attribute of a trial that failed by itself: why."""


def one_changed(
    plan: Mapping[str, Any], space: Space, number: int, seed: int
) -> dict[str, Any] | None:
    """The plan with its setting of this number, from 1, changed: what each does alone. None beyond the last setting.

    Args:
        plan: stored values of the first trial; without a value for each setting there are none.
        seed: of what is drawn.
    """
    if plan.keys() != space.keys() or not 1 <= number <= len(space):
        return None
    key = list(space)[number - 1]
    return {**plan, key: space[key].other(plan[key], np.random.default_rng(seed))}


def proposed(trials: Sequence[FrozenTrial], seed: int) -> dict[str, Any] | None:
    """Values that promise the largest improvement on the best score, given the trials so far; None is anything.

    A Gaussian process has a smooth curve over all settings at once and an estimate of the noise of a score
    (Optuna's `GPSampler`), so it puts together what helped in different trials. It assumes scores of one scale; a
    single trial that learnt nothing would hide all differences among the others. Therefore scores count down to a
    floor, which is also that of trials that failed. Trials that ended early count with what they would probably have
    reached, and trials under way with what is expected of them.

    Args:
        trials: of a study.
        seed: of what is drawn.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) < STARTUP:
        return None
    floor = _floor([float(trial.value or 0) for trial in complete])
    space = complete[-1].distributions
    view = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.GPSampler(seed=seed, n_startup_trials=0)
    )
    for trial in trials:
        if trial.params.keys() != space.keys():
            continue
        if trial.state == TrialState.RUNNING:
            state, value = TrialState.RUNNING, None
        elif trial.state == TrialState.COMPLETE:
            state, value = TrialState.COMPLETE, max(floor, float(trial.value or 0))
        elif trial.state == TrialState.PRUNED:
            state, value = TrialState.COMPLETE, max(floor, expected(trial, complete))
        elif FAILURE in trial.user_attrs:
            state, value = TrialState.COMPLETE, floor
        else:  # queued, or stopped by hand
            continue
        view.add_trial(
            create_trial(state=state, value=value, params=trial.params, distributions=space)
        )
    return dict(view.ask(space).params)


def expected(trial: FrozenTrial, complete: Sequence[FrozenTrial]) -> float:
    """The score of a trial that ended early, if it had stayed as far from the median of the others as it was."""
    if not trial.intermediate_values:
        return float("-inf")
    share, score = max(trial.intermediate_values.items())
    others = [one for one in complete if one.intermediate_values]
    if not others:
        return score
    return score + statistics.median(
        float(one.value or 0) - _score_at(one, share) for one in others
    )


def far_behind(trials: Sequence[FrozenTrial], share: int, score: float) -> bool:
    """Whether a score is below those of three quarters of the trials at the same share of their steps.

    Trials validate at shares of their own, so their scores between two validations are interpolated. Trials that ended
    before that share do not count.

    Args:
        trials: the other ones of a study.
        share: of the steps, in percent.
    """
    if share < JUDGED_AFTER:
        return False
    others = [
        _score_at(one, share)
        for one in trials
        if one.intermediate_values
        and (one.state == TrialState.COMPLETE or max(one.intermediate_values) >= share)
    ]
    return len(others) >= STARTUP and score < float(np.quantile(others, 1 - KEPT))


def _score_at(trial: FrozenTrial, share: int) -> float:
    """The score of a trial with validations at a share of its steps, in percent."""
    curve = sorted(trial.intermediate_values.items())
    return float(np.interp(share, *zip(*curve, strict=True)))


def _floor(scores: Sequence[float]) -> float:
    median = statistics.median(scores)
    upper = statistics.quantiles(scores, n=4, method="inclusive")[2]
    return max(min(scores), median - FLOOR * (upper - median))
