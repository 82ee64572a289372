"""What the plan makes of `[augment]`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ctseg.config import AugmentConfig, PredictConfig, PreprocessConfig, RunConfig, TrainConfig
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.limits import Limits
from ctseg.planning.plan import make_plan
from ctseg.task import classes_task

TASK = classes_task({"left kidney": 1, "right kidney": 2})
SIDED = replace(TASK, mirror_pairs=(("left kidney", "right kidney"),))
STATISTICS = {
    "percentile_00_5": -80.0, "median": 40.0, "percentile_99_5": 200.0, "mean": 45.0, "std": 30.0,
}  # fmt: skip


def plan(augment=None, task=TASK, device="cpu", **sections):
    config = RunConfig(augment=augment or AugmentConfig(), **sections)
    looked = Fingerprint(((40, 50, 45),) * 10, ((1.0, 1.0, 1.0),) * 10, (STATISTICS,), {}, 10)
    return make_plan(config, task, ("CT",), looked, Limits(device))


def test_the_preset_depends_on_the_device_and_nothing_is_left_out():
    config, why = plan()
    assert config.augment.complete
    assert (config.augment.preset, config.predict.mirror_axes) == ("gentle", ())
    assert why.choices["augment"]["value"] == "gentle"
    config, why = plan(device="cuda")
    assert (config.augment.preset, config.predict.mirror_axes) == ("nnunet", ("z", "y", "x"))
    config, why = plan(AugmentConfig(preset="nnunet", noise=0.7))
    assert (config.augment.noise, config.augment.blur) == (0.7, 0.2)
    assert "augment" not in why.choices


def test_models_with_sides_are_not_averaged_over_them():
    config, _ = plan(AugmentConfig(preset="nnunet"), SIDED)
    assert config.augment.mirror_axes == ("z", "y", "x")
    assert config.predict.mirror_axes == ("z", "y")
    asked, _ = plan(
        AugmentConfig(preset="nnunet"), SIDED, predict=PredictConfig(mirror_axes=("x",))
    )
    assert asked.predict.mirror_axes == ("x",)
    off, _ = plan(AugmentConfig(preset="nnunet"), predict=PredictConfig(mirror_axes=()))
    assert off.predict.mirror_axes == ()


ORIENT, TURN = {"kind": "orient"}, {"kind": "transpose", "order_zyx": [2, 0, 1]}


@pytest.mark.parametrize(
    ("steps", "axes"),
    [
        ([{"kind": "orient", "to": "RAS"}], ("z", "y")),
        ([{"kind": "orient", "to": "PSL"}, {"kind": "crop"}], ("y", "x")),
        ([ORIENT, TURN, {"kind": "resample", "spacing_xyz": [2, 2, 2]}], ("y", "x")),
        ([TURN, ORIENT, {"kind": "pad_to_multiple"}], ("z", "y")),
        ([ORIENT, {"kind": "transpose", "order_zyx": [0, 2, 1]}], ("z", "x")),
        ([{"kind": "clip"}], ()),
        ([TURN], ()),
    ],
)
def test_the_steps_say_which_axis_lies_between_left_and_right(steps, axes):
    """Where they do not, scans are taken as they are stored, and it may be any."""
    own = PreprocessConfig(steps=tuple(steps))
    config, _ = plan(AugmentConfig(preset="nnunet"), SIDED, preprocess=own)
    assert config.predict.mirror_axes == axes
    config, _ = plan(AugmentConfig(preset="nnunet"), preprocess=own)
    assert config.predict.mirror_axes == ("z", "y", "x")


def test_steps_get_what_is_usual_where_an_option_is_left_out():
    own = PreprocessConfig(steps=({"kind": "resample"}, {"kind": "clip", "low": [-100.0]}))
    config, _ = plan(AugmentConfig(), preprocess=own)
    resample, clip = config.preprocess.steps
    assert resample["spacing_xyz"] == [1.0, 1.0, 1.0] and resample["kernel"]
    assert clip["low"] == [-100.0] and "high" in clip


def test_flat_patches_with_sides_make_no_half_turns():
    """A scan turned by 180 degrees in its plane looks as one mirrored twice, whose sides are exchanged."""
    flat = TrainConfig(patch_zyx=(8, 64, 64))
    plain, _ = plan(AugmentConfig(preset="nnunet"), train=flat)
    assert plain.augment.rotation_degrees == (180.0, 0.0, 0.0)
    sided, why = plan(AugmentConfig(preset="nnunet"), SIDED, train=flat)
    assert sided.augment.rotation_degrees == (30.0, 0.0, 0.0)
    assert "right" in why.choices["rotation_degrees"]["reason"]
    asked = AugmentConfig(preset="nnunet", rotation_degrees=(90.0, 0.0, 0.0))
    assert plan(asked, SIDED, train=flat)[0].augment.rotation_degrees == (90.0, 0.0, 0.0)
