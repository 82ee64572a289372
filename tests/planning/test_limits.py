"""Sizes of training: enough steps in the time, within the memory."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from ctseg.config import RunConfig, parse_config
from ctseg.nets.cost import Cost
from ctseg.planning.choices import LEVELS, USUAL, Budget, usual_budget
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.limits import BESIDE, PASSES, Limits, Load, choose_budget, load_of
from ctseg.planning.plan import make_plan
from ctseg.task import classes_task

TASK = classes_task({"organ": 1})
STATISTICS = {
    "percentile_00_5": -80.0, "median": 40.0, "percentile_99_5": 200.0, "mean": 45.0, "std": 30.0,
}  # fmt: skip
GB = 10**9


def load(budget: Budget) -> Load:
    """One operation and ten bytes for each voxel and feature."""
    work = budget.patch_voxels * budget.features
    return Load(Cost(0, 0, work, 0, 0, 10 * work), budget.batch_size)


def level_of(limits: Limits, preset: str = "default") -> int:
    found, reason = choose_budget(limits, preset, load)
    assert reason
    return next(i for i, level in enumerate(LEVELS) if level[:4] == found[:4])


def seconds_for(level: int, steps: float) -> float:
    """The time in which a size makes that many steps at a speed of 1."""
    return load(LEVELS[level]).cost.flops * LEVELS[level].batch_size * PASSES * BESIDE * steps


def test_sizes_grow_in_everything():
    for smaller, larger in itertools.pairwise(LEVELS):
        assert smaller.patch_voxels * smaller.batch_size < larger.patch_voxels * larger.batch_size
        assert smaller.features <= larger.features and smaller.max_features <= larger.max_features
        assert smaller.coarsest >= larger.coarsest and smaller.steps <= larger.steps


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_without_limits_the_usual_size_is_taken(device):
    limits = Limits(device)
    assert level_of(limits) == USUAL[device]
    assert level_of(limits, "fast") == USUAL[device] - 1
    assert level_of(limits, "accurate") == USUAL[device] + 1
    # a time without a speed, as before anything is measured
    assert level_of(dataclasses.replace(limits, seconds=1.0)) == USUAL[device]
    assert choose_budget(limits, "accurate", load)[0].coarsest == 1


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_the_largest_size_whose_steps_are_enough(level):
    enough = max(LEVELS[level].steps, 1)
    just = seconds_for(level, enough * 1.001)
    if level + 1 < len(LEVELS):
        assert just < seconds_for(level + 1, LEVELS[level + 1].steps)
    assert level_of(Limits("cpu", seconds=just, speed=1.0)) == level
    assert level_of(Limits("cpu", seconds=just / 1000, speed=0.001)) < max(level, 1)
    assert level_of(Limits("cpu", seconds=just, speed=1.0), "fast") <= level
    assert level_of(Limits("cpu", seconds=just, speed=1.0), "accurate") >= level


def test_too_little_time_for_anything_gives_the_smallest():
    budget, reason = choose_budget(Limits("cuda", seconds=1e-6, speed=1.0), "default", load)
    assert budget == LEVELS[0]
    assert "about 0 steps" in reason


def test_memory_bounds_the_size_and_lets_it_grow_on_cards_alone():
    needs = [load(level).memory(Limits("cuda")) for level in LEVELS]
    for level, need in enumerate(needs):
        assert level_of(Limits("cuda", memory=need)) == level
        assert level_of(Limits("cuda", memory=need - 1)) == max(level - 1, 0)
    assert level_of(Limits("cpu", memory=1000 * GB)) == USUAL["cpu"]  # nobody knows for how long
    usual = usual_budget("cpu")
    assert level_of(Limits("cpu", memory=load(usual).memory(Limits("cpu")) - 1)) == USUAL["cpu"] - 1


def test_what_cannot_be_counted_keeps_the_usual_size():
    limits = Limits("cuda", memory=1, seconds=1.0, speed=1.0)
    assert choose_budget(limits, "default", lambda _: None) == (
        usual_budget("cuda"),
        "usual on cuda",
    )


def test_time_and_memory_decide_together():
    enough = seconds_for(6, LEVELS[6].steps + 1)
    small = load(LEVELS[4]).memory(Limits("cuda"))
    assert level_of(Limits("cuda", memory=1000 * GB, seconds=enough, speed=1.0)) == 6
    assert level_of(Limits("cuda", memory=small, seconds=enough, speed=1.0)) == 4


def test_half_precision_holds_larger_patches():
    budget = LEVELS[8]
    assert load(budget).memory(Limits("cuda", half=True)) < load(budget).memory(Limits("cuda"))


def plan(limits: Limits, config: RunConfig | None = None, shape=(400, 512, 512)):
    found = Fingerprint((shape,) * 10, ((1.0, 0.8, 0.8),) * 10, (STATISTICS,), {"organ": 1.0}, 10)
    return make_plan(config or RunConfig(), TASK, ("CT",), found, limits)


@pytest.mark.slow
def test_plans_are_as_different_as_machines_and_times():
    laptop, why = plan(Limits("cpu", 8 * GB, seconds=240, speed=2e11))
    card, _ = plan(Limits("cuda", 80 * GB, seconds=35_000, speed=2e13, half=True))
    assert laptop.train.patch_zyx is not None and card.train.patch_zyx is not None
    voxels = [z * y * x for z, y, x in (laptop.train.patch_zyx, card.train.patch_zyx)]
    assert voxels[1] > 50 * voxels[0]
    assert laptop.model.options["features"][0] < card.model.options["features"][0]
    spacings = [
        next(
            step["spacing_xyz"][0] for step in config.preprocess.steps if step["kind"] == "resample"
        )
        for config in (laptop,)
    ]
    assert spacings[0] > 1.5
    assert [step["kind"] for step in card.preprocess.steps if step["kind"] == "resample"] == []
    assert next(iter(why.choices)) == "size"
    assert "steps of" in why.choices["size"]["reason"]


def test_what_the_user_set_is_kept_whatever_the_time():
    config = parse_config(
        {
            "train": {"patch_zyx": [16, 32, 32], "batch_size": 3},
            "model": {"options": {"features": [6, 12]}},
        }
    )
    made, _ = plan(Limits("cpu", seconds=1.0, speed=1.0), config)
    assert (made.train.patch_zyx, made.train.batch_size) == ((16, 32, 32), 3)
    assert made.model.options["features"] == [6, 12]


def test_a_load_is_counted_without_computing():
    made, _ = plan(Limits("cuda"))
    found = load_of(made, in_channels=1, out_channels=2)
    assert found is not None
    assert found.batch_size == made.train.batch_size
    assert found.cost.flops > 1e12  # nnU-Net's usual network on 128 x 128 x 128
    assert 4 * GB < found.memory(Limits("cuda", half=True)) < 12 * GB
