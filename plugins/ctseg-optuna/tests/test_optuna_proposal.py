"""Proposals: what helped in different trials is put together, and a trial that learnt nothing hides nothing."""

from __future__ import annotations

import itertools
import random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ctseg_optuna.proposal import STARTUP, proposed

SPACE = {name: CategoricalDistribution(["0", "1"]) for name in "abcd"} | {
    "rate": FloatDistribution(1e-3, 1e-1, log=True)
}


def trial(
    values: dict[str, object],
    score: float | None,
    state: TrialState = TrialState.COMPLETE,
    **attrs: object,
) -> FrozenTrial:
    return create_trial(
        state=state, value=score, params=values, distributions=SPACE, user_attrs=attrs
    )  # fmt: skip


def planned(**changed: object) -> dict[str, object]:
    return dict.fromkeys("abcd", "0") | {"rate": 1e-2} | changed


def test_nothing_is_proposed_before_some_trials_are_complete() -> None:
    few = [trial(planned(), 0.8)] * (STARTUP - 1) + [trial(planned(), 0.1, TrialState.PRUNED)]
    assert proposed(few, 0) is None


@pytest.mark.parametrize("seed", range(3))
def test_what_helped_in_different_trials_is_put_together(seed: int) -> None:
    """Effects: a and b help, c and d do harm, and a trial of d learns nothing at all."""
    draw = random.Random(seed)

    def score(values: dict[str, object]) -> float:
        gain = (
            0.01 * (values["a"] == "1") + 0.01 * (values["b"] == "1") - 0.01 * (values["c"] == "1")
        )
        return (0.3 if values["d"] == "1" else 0.88 + gain) + draw.gauss(0, 0.001)

    trials = [trial(v, score(v)) for v in [planned(), *(planned(**{name: "1"}) for name in "abcd")]]
    for number in range(6):
        values = proposed(trials, number)
        assert values is not None and values.keys() == SPACE.keys()
        trials.append(trial(values, score(values)))
    tried = [(one.params["a"], one.params["b"]) for one in trials[5:]]
    assert ("1", "1") in tried[:3]
    assert sum(one.params["d"] == "1" for one in trials[5:]) <= 1


def test_trials_that_failed_or_ended_early_are_not_proposed_again() -> None:
    rest = [planned(c=c, d=d) for c, d in itertools.product("01", "01")]
    trials = [trial(values, 0.8 + 0.001 * n) for n, values in enumerate(rest)] + [
        trial(planned(), 0.8)
    ]
    trials += [trial(planned(a="1", c=c), None, TrialState.FAIL, failure="no memory") for c in "01"]
    trials += [trial(planned(b="1", c=c), 0.1, TrialState.PRUNED) for c in "01"]
    trials.append(trial(planned(d="1"), None, TrialState.RUNNING))
    for seed in range(5):
        values = proposed(trials, seed)
        assert values is not None
        assert (values["a"], values["b"]) == ("0", "0")


def test_it_needs_no_study_of_its_own() -> None:
    made = optuna.create_study()
    made.add_trials([trial(planned(rate=0.01 + 0.001 * n), 0.8) for n in range(STARTUP)])
    proposed(made.get_trials(), 0)
    assert len(made.trials) == STARTUP
