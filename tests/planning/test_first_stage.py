"""A first stage at low resolution: when a plan has one, and what it is like."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from ctseg.config import RunConfig, dump_config, override, parse_config
from ctseg.errors import BadInput
from ctseg.nets.cost import Cost
from ctseg.planning.choices import Plan
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.first_stage import first_stage_run, steps_of
from ctseg.planning.limits import Limits, Load
from ctseg.planning.plan import make_plan
from ctseg.task import classes_task

TASK = classes_task({"organ": 1})
SMALL = [
    "model.options.features=[4, 8]",
    "train.patch_zyx=[16, 16, 16]",
    "train.steps=4000",
    "preprocess.spacing_xyz=[1, 1, 1]",
]


def found(shape=(100, 120, 80), spacing=(1.0, 1.0, 1.0), side=10, cases=4) -> Fingerprint:
    statistics = {
        "percentile_00_5": -80.0, "median": 40.0, "percentile_99_5": 200.0, "mean": 45.0, "std": 30.0,
    }  # fmt: skip
    box = ((20, 20 + side), (30, 30 + side), (40, 40 + side))
    return Fingerprint(
        (shape,) * cases,
        (spacing,) * cases,
        (statistics,),
        {"organ": 1.0},
        cases,
        boxes=(box,) * cases,
    )


def planned(
    *settings: str, data: Fingerprint | None = None, **limits: Any
) -> tuple[RunConfig, Plan]:
    config = override(override(RunConfig(), SMALL), settings)
    return make_plan(config, TASK, ("CT",), data or found(), Limits("cpu", **limits))


def test_a_plan_without_one_says_where_it_may_pay() -> None:
    config, plan = planned()
    assert config.first_stage.use == "off"
    assert plan.choices["first_stage"]["value"] == "off"
    # 16^3 of 100 x 120 x 80 voxels, and a box of 10 with half a patch on each side
    assert pytest.approx(0.0043, abs=5e-5) == 16**3 / (100 * 120 * 80)
    assert pytest.approx(0.018, abs=5e-4) == 26**3 / (100 * 120 * 80)
    reason = plan.choices["first_stage"]["reason"]
    assert "sees 0.4% of a median scan" in reason
    assert "margin of 8 mm fills 1.8%" in reason


def test_one_is_planned_by_itself_where_it_pays() -> None:
    config, plan = planned("first_stage.use=auto")
    stage = config.first_stage
    assert stage.use == "on"
    assert stage.margin_mm == 8.0
    shown = plan.choices["first_stage"]["value"]
    assert shown["patch_zyx"] == list(stage.patch_zyx or ())
    # at its spacing the patch sees a quarter of a scan
    voxels = math.prod(shown["spacing_xyz"])
    assert 16**3 * voxels / (100 * 120 * 80) == pytest.approx(0.25, rel=0.02)
    # the rest of its preprocessing is that of the run
    own = [s for s in config.preprocess.steps if s["kind"] != "resample"]
    assert [s for s in stage.preprocess if s["kind"] != "resample"] == own


@pytest.mark.parametrize(
    ("settings", "data", "reason"),
    [
        (["train.steps=900"], {}, "900 steps needs them all"),
        (["train.epochs=3"], {}, "750 steps needs them all"),
        (["train.time=1h"], {}, "an unknown number of steps"),
        ([], {"side": 78}, "a region would leave out little"),
        ([], {"shape": (24, 24, 24)}, "a quarter is enough"),
        (["data.prepare=lazy"], {}, "lazy"),
    ],
)
def test_none_is_planned_where_it_does_not_pay(settings, data, reason) -> None:
    limits = {"seconds": 3600.0} if settings == ["train.time=1h"] else {}
    config, plan = planned("first_stage.use=auto", *settings, data=found(**data), **limits)
    assert config.first_stage.use == "off"
    assert reason in plan.choices["first_stage"]["reason"]


def test_time_decides_by_the_steps_that_it_allows() -> None:
    load = Load(Cost(0, 0, 10**9, 0, 0, 0), batch_size=2)
    train = RunConfig().train.model_copy(update={"time": "1h"})
    limits = Limits("cpu", seconds=100.0, speed=1e9)
    assert steps_of(train, limits, load) == pytest.approx(100 / (1.15 * 3 * 2))
    assert steps_of(train, Limits("cpu", seconds=100.0), load) is None
    assert steps_of(train, limits, None) is None
    assert steps_of(RunConfig().train, Limits("cpu"), load) == math.inf


def test_a_first_stage_leaves_less_time() -> None:
    times = {"seconds": 100.0, "speed": 1e9}
    plans = [
        planned("train.time=2m", "first_stage.share=0.5", f"first_stage.use={use}", **times)[1]
        for use in ("off", "on")
    ]
    alone, behind = (
        int(str(plan.choices["size"]["reason"]).split()[1]) for plan in plans
    )  # about N steps
    assert behind == pytest.approx(alone / 2, abs=1)


def test_what_is_asked_for_is_kept() -> None:
    config, plan = planned(
        "first_stage.use=on", "train.steps=10", "first_stage.margin_mm=30",
        "first_stage.spacing_xyz=[4, 4, 5]", "first_stage.patch_zyx=[8, 16, 16]",
        "first_stage.batch_size=3", data=found(side=78),
    )  # fmt: skip
    stage = config.first_stage
    assert (stage.margin_mm, stage.patch_zyx, stage.batch_size) == (30.0, (8, 16, 16), 3)
    assert plan.choices["first_stage"]["value"]["spacing_xyz"] == [4.0, 4.0, 5.0]
    assert "as asked" in plan.choices["first_stage"]["reason"]
    again = parse_config(config.model_dump(mode="json"))
    assert make_plan(again, TASK, ("CT",), found(side=78), Limits("cpu"))[0] == config
    assert "[first_stage]" in dump_config(config)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.prepare=lazy", "reads whole scans"),
        ('preprocess.steps=[{kind = "orient"}, {kind = "crop_or_pad", size_zyx = [64, 64, 64]}]', "crop_or_pad"),
    ],
)  # fmt: skip
def test_a_first_stage_that_cannot_be_is_refused(setting: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        planned("first_stage.use=on", setting)


def test_a_regression_has_none() -> None:
    from ctseg.specs import Label, Task

    task = Task("regression", (Label("value", (), 1),))
    data = dataclasses.replace(
        found(), boxes=(), targets=({"mean": 0.0, "std": 1.0, "median": 0.0},), volumes_ml={}
    )
    config = override(RunConfig(), [*SMALL, "first_stage.use=on"])
    with pytest.raises(BadInput, match="predicted everywhere"):
        make_plan(config, task, ("CT",), data, Limits("cpu"))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        ("train.steps=1000", {"steps": 200}),
        ("train.epochs=10", {"epochs": 2}),
        ("train.time=10m", {"time": "120.000s"}),
    ],
)
def test_the_run_of_a_first_stage_is_shorter(length: str, expected: dict[str, object]) -> None:
    settings = [length, "first_stage.share=0.2", "first_stage.use=on", "train.freeze=['a.*']"]
    config, _ = planned(*settings)
    run = first_stage_run(config)
    lengths = {name: getattr(run.train, name) for name in ("steps", "epochs", "time")}
    assert {k: v for k, v in lengths.items() if v is not None} == expected
    assert run.preprocess.steps == config.first_stage.preprocess
    assert run.model.options == config.first_stage.options
    assert run.first_stage.use == "off" and run.train.freeze == ()
    # nothing is left to plan in it but its tile
    resolved, plan = make_plan(run, TASK, ("CT",), found(), Limits("cpu"))
    assert resolved.train == run.train
    assert resolved.preprocess == run.preprocess
    assert "first_stage" not in plan.choices
