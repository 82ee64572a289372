"""What to try next: a Gaussian process over the settings that were tried."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

STARTUP = 5
"""Complete trials before others are drawn by what was learnt, or ended early."""
FLOOR = 4.0
"""Scores count down to so many times the distance of the upper quartile from the median below the median."""
FAILURE = "failure"
"""Attribute of a trial that failed by itself: why."""


def proposed(trials: Sequence[FrozenTrial], seed: int) -> dict[str, Any] | None:
    """Values that promise the largest improvement on the best score, given the trials so far; None is anything.

    A Gaussian process has a smooth curve over all settings at once and an estimate of the noise of a score
    (Optuna's `GPSampler`), so it puts together what helped in different trials. It assumes scores of one scale; a
    single trial that learnt nothing would hide all differences among the others. Therefore scores count down to a
    floor, and trials that ended early or failed have the floor. Trials under way count with what is expected of them.

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
        elif trial.state == TrialState.PRUNED or FAILURE in trial.user_attrs:
            state, value = TrialState.COMPLETE, floor
        else:  # queued, or stopped by hand
            continue
        view.add_trial(
            create_trial(state=state, value=value, params=trial.params, distributions=space)
        )
    return dict(view.ask(space).params)


def _floor(scores: Sequence[float]) -> float:
    median = statistics.median(scores)
    upper = statistics.quantiles(scores, n=4, method="inclusive")[2]
    return max(min(scores), median - FLOOR * (upper - median))
