"""Proposals: what helped in different trials is put together, and a trial that learnt nothing hides nothing."""

from __future__ import annotations

import itertools
import json
import random

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ctseg_optuna.proposal import STARTUP, expected, far_behind, one_changed, proposed
from ctseg_optuna.space import Choices, Range

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


def test_a_trial_that_ended_early_counts_with_what_it_would_have_reached() -> None:
    others = [
        create_trial(value=final, intermediate_values={20: start, 60: middle, 100: final})
        for start, middle, final in [(0.6, 0.8, 0.88), (0.7, 0.82, 0.89), (0.2, 0.3, 0.5)]
    ]
    ended = create_trial(
        state=TrialState.PRUNED, value=0.74, intermediate_values={20: 0.65, 40: 0.74}
    )
    gains = [0.88 - 0.7, 0.89 - 0.76, 0.5 - 0.25]
    assert expected(ended, others) == pytest.approx(0.74 + sorted(gains)[1])


def test_each_setting_of_the_plan_is_changed_alone() -> None:
    space = {
        "loss.name": Choices(("dice_ce", "tversky", "dice_topk")),
        "train.batch_size": Choices((1, 2)),
        "train.lr": Range(1e-3, 1.6e-2, log=True),
        "train.warmup": Range(0.0, 0.4),
    }
    plan = {
        "loss.name": '"dice_ce"',
        "train.batch_size": "2",
        "train.lr": 1e-3,
        "train.warmup": 0.02,
    }
    for number, key in enumerate(space, start=1):
        for seed in range(4):
            values = one_changed(plan, space, number, seed)
            assert values is not None
            assert [name for name in plan if values[name] != plan[name]] == [key]
            assert space[key].as_parameter(_read(values[key])) is not None, "it lies in the space"
    rate = one_changed(plan, space, 3, 0)
    assert rate is not None and rate["train.lr"] == pytest.approx(2e-3)
    assert one_changed(plan, space, 0, 0) is None and one_changed(plan, space, 5, 0) is None
    assert one_changed({"train.lr": 1e-3}, space, 1, 0) is None, "a plan outside the space"


def _read(stored: object) -> object:
    return json.loads(stored) if isinstance(stored, str) else stored


def test_it_needs_no_study_of_its_own() -> None:
    made = optuna.create_study()
    made.add_trials([trial(planned(rate=0.01 + 0.001 * n), 0.8) for n in range(STARTUP)])
    proposed(made.get_trials(), 0)
    assert len(made.trials) == STARTUP


def curve(points: dict[int, float], state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    score = max(points.values()) if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=score, intermediate_values=points)


def test_a_trial_far_behind_is_judged_by_all_others_at_its_share() -> None:
    others = [curve({40 + i: 0.1, 60 + i: 0.3}) for i in range(STARTUP)]
    others[-1] = curve({40: 0.1, 54: 0.9})
    assert not far_behind(others, 54, 0.8)  # one other was better there
    assert far_behind(others, 54, 0.15)
    assert not far_behind(others[1:], 54, 0.15)  # too few
    assert not far_behind(others, 39, 0.0)  # too early
    assert not far_behind(others, 56, 0.26)


def test_trials_that_ended_early_count_as_far_as_they_came() -> None:
    ended = [curve({50: 0.1}, TrialState.PRUNED)] * 4
    others = [curve({40: 0.2, 100: 0.8})] * STARTUP
    assert far_behind(others, 50, 0.2)
    assert not far_behind([*others, *ended], 50, 0.2)
    assert far_behind([*others, *ended], 60, 0.2)
