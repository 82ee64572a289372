"""The ranking of settings: repeated ones by mean less standard error, and which are trained again."""

from __future__ import annotations

import statistics

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from ctseg_optuna.ranking import PLAN, of_plan, ranking, to_repeat

RATE = {"train.lr": FloatDistribution(0, 10)}


def study(*scores: tuple[float, float | None]) -> optuna.Study:
    """A study of trials (value, score); None is one under way."""
    made = optuna.create_study(direction="maximize")
    for number, (rate, score) in enumerate(scores):
        state = TrialState.RUNNING if score is None else TrialState.COMPLETE
        made.add_trial(
            create_trial(
                params={"train.lr": rate},
                distributions=RATE,
                value=score,
                state=state,
                user_attrs={} if number else {PLAN: True},
            )
        )
    return made


def test_a_lucky_trial_does_not_pass_settings_that_were_good_three_times() -> None:
    scores = [(1, 0.880), (2, 0.886), (3, 0.8861), (2, 0.888), (2, 0.884), (1, 0.882)]
    best, *_ = ranking(study(*scores).trials)
    assert best.first.number == 1 and best.mean == pytest.approx(0.886)
    pooled = (
        (2 * statistics.variance([0.886, 0.888, 0.884]) + statistics.variance([0.88, 0.882])) / 3
    ) ** 0.5
    assert best.error == pytest.approx(pooled / 3**0.5)
    assert str(best) == f"0.8860 ± {best.error:.4f} (3 seeds)"


def test_without_repeats_the_best_score_wins_and_the_earlier_of_two() -> None:
    ranked = ranking(study((1, 0.5), (2, 0.7), (3, 0.7), (4, None)).trials)
    assert [one.first.number for one in ranked] == [1, 2, 0] and ranked[0].error == 0
    plan = of_plan(ranked)
    assert plan is not None and plan.mean == 0.5


def test_the_best_three_and_the_plan_are_trained_again_in_turn() -> None:
    made = study((0, 0.1), (1, 0.5), (2, 0.7), (3, 0.6), (4, 0.4), (2, None))
    order = []
    for _ in range(5):
        chosen = to_repeat(made.trials)
        assert chosen is not None
        order.append(chosen.first.params["train.lr"])
        made.enqueue_trial(chosen.first.params, user_attrs={"seed": chosen.begun})
    assert order == [3, 1, 0, 2, 3], (
        "what is queued or under way counts, and 4 is not among the best"
    )


def test_nothing_is_repeated_before_two_settings_are_complete() -> None:
    assert to_repeat(study((0, 0.5), (1, None)).trials) is None
    assert ranking([]) == []
