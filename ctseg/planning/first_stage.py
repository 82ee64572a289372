"""A first stage at low resolution: whether it pays, and how it is trained.

It finds the region of the labels, and the network of the run looks there alone. nnU-Net plans a second resolution by
the same rule: where a patch holds less than a quarter of a median scan.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ctseg import plugins
from ctseg.config import FirstStageConfig, RunConfig, parse_duration
from ctseg.config.run import TrainConfig
from ctseg.errors import BadInput
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.limits import Limits, Load
from ctseg.planning.preprocessing import RESHAPING, at_spacing, network_grid
from ctseg.planning.slicewise import spacing_in_plane
from ctseg.planning.spacing import CONTEXT, rounded_mm, spacing_in_space

Xyz = tuple[float, float, float]
LARGEST_REGION = 0.5
"""Part of a scan that the region of its labels may fill, so that a network of its own pays for finding it."""
LEAST_STEPS = 1000
"""A run of fewer steps needs them all."""
STEPS_PER_EPOCH = 250


class Sight(NamedTuple):
    """What a patch sees of a median scan.

    Attributes:
        share: part of the scan, of a slice for a slice-wise network.
        region: median part of a scan that the box of its labels with the margin fills.
        margin_mm: half a patch along its longest side, so that a patch fits around the smallest object.
        slicewise: whether the network is slice-wise.
    """

    share: float
    region: float
    margin_mm: float
    slicewise: bool

    def __str__(self) -> str:
        what = "slice" if self.slicewise else "scan"
        return (
            f"a patch sees {self.share:.1%} of a median {what}, and the box of the labels with a margin of "
            f"{self.margin_mm:g} mm fills {self.region:.1%} of a scan"
        )


def sight_of(config: RunConfig, fingerprint: Fingerprint) -> Sight:
    """What the patch of a complete configuration sees."""
    spec = plugins.architecture(config.model.architecture)
    flat = spec.constraints_for(plugins.make_config(spec, config.model.options)).dims == 2
    spacing, shape = network_grid(config.preprocess, fingerprint)
    patch = config.train.patch_zyx
    assert patch is not None
    first = 1 if flat else 0
    margin = config.first_stage.margin_mm
    if margin is None:
        sides = [n * mm for n, mm in zip(patch, spacing, strict=True)]
        margin = rounded_mm(max(sides[first:]) / 2, 1)
    share = min(math.prod(patch[first:]) / math.prod(shape[first:]), 1.0)
    return Sight(share, _region(fingerprint, margin), margin, flat)


def _region(fingerprint: Fingerprint, margin_mm: float) -> float:
    """The median part of a scan that the box of its labels with a margin fills; all of it where that is unknown."""
    if not any(fingerprint.boxes):
        return 1.0
    cases = zip(fingerprint.boxes, fingerprint.shapes_zyx, fingerprint.spacings_zyx, strict=True)
    parts = [
        math.prod(
            min((b - a + 2 * margin_mm / mm) / n, 1.0)
            for (a, b), n, mm in zip(box, shape, spacing, strict=True)
        )
        for box, shape, spacing in cases
        if box is not None
    ]
    return float(np.median(parts))


def steps_of(train: TrainConfig, limits: Limits, load: Load | None) -> float | None:
    """The steps of a run; infinite where nothing says how long it is, None if its time allows an unknown number."""
    if train.steps or train.epochs:
        return train.steps or (train.epochs or 1) * (train.steps_per_epoch or STEPS_PER_EPOCH)
    if limits.seconds is None:
        return math.inf
    seconds = None if load is None else load.seconds(limits)
    return None if seconds is None else limits.seconds / max(seconds, 1e-9)


def choose_first_stage(
    config: RunConfig, sight: Sight, steps: float | None
) -> tuple[bool, str] | None:
    """Whether a first stage is trained, and why; None where there is nothing to choose.

    Args:
        config: complete.
        steps: of the run, as `steps_of`.

    Raises:
        BadInput: a first stage is asked for that cannot be.
    """
    use = config.first_stage.use
    if use == "off" and sight.share >= CONTEXT / 2:
        return None
    hindrance = _hindrance(config)
    if hindrance is not None:
        if use == "on":
            raise BadInput(
                f"A first stage at low resolution cannot be trained: {hindrance}.",
                hint="Leave it out: --set first_stage.use=off",
            )
        return None if use == "off" else (False, hindrance)
    if use == "on":
        return True, f"as asked; {sight}"
    if sight.share >= CONTEXT:
        return False, f"{sight}; a quarter is enough"
    if sight.region > LARGEST_REGION:
        return False, f"{sight}: a region would leave out little"
    if use == "off":
        return False, f"{sight}: a first stage at low resolution may pay (first_stage.use = auto)"
    if steps is None or steps < LEAST_STEPS:
        known = "an unknown number of steps" if steps is None else f"{int(steps)} steps"
        return (
            False,
            f"{sight}, but a run of {known} needs them all: {LEAST_STEPS} leave some for a first stage",
        )
    return True, f"{sight}: a first stage at low resolution finds it"


def _hindrance(config: RunConfig) -> str | None:
    """Why a run can have no first stage; None if it can."""
    if config.task is not None and config.task.kind == "regression":
        return "values are predicted everywhere"
    kind = next((s["kind"] for s in config.preprocess.steps if s["kind"] in RESHAPING), None)
    if kind is not None:
        return f"the preprocessing step '{kind}' sets the grid"
    if config.data.prepare == "lazy":
        return "data.prepare = lazy reads whole scans"
    return None


def coarse_spacing(config: RunConfig, fingerprint: Fingerprint, *, slicewise: bool) -> Xyz:
    """The spacing x, y, z at which the patch of a complete configuration sees a quarter of a median scan."""
    find = spacing_in_plane if slicewise else spacing_in_space
    voxels = math.prod(config.train.patch_zyx or ())
    (z, y, x), _ = find(fingerprint, patch_voxels=voxels, coarsest=math.inf, share=CONTEXT)
    own, _ = network_grid(config.preprocess, fingerprint)  # never finer than that of the run
    z, y, x = (rounded_mm(max(pair), 4) for pair in zip((z, y, x), own, strict=True))
    return x, y, z


def first_stage_request(config: RunConfig, resolved: RunConfig, spacing_xyz: Xyz) -> RunConfig:
    """The configuration of the first stage, with what is yet to be planned left open.

    Args:
        config: of the run, as the user has it.
        resolved: of the run, complete.
    """
    stage = config.first_stage
    steps, spacing = stage.preprocess or resolved.preprocess.steps, stage.spacing_xyz
    if spacing is not None or not stage.preprocess:
        steps = at_spacing(steps, spacing or spacing_xyz)
    train = {
        "patch_zyx": stage.patch_zyx or config.train.patch_zyx,
        "batch_size": stage.batch_size or config.train.batch_size,
    }
    return config.model_copy(
        update={
            "preprocess": resolved.preprocess.model_copy(update={"steps": steps}),
            "model": config.model.model_copy(
                update={"options": stage.options or config.model.options}
            ),
            "train": config.train.model_copy(update=train),
            "predict": config.predict.model_copy(update={"tile_zyx": None}),
        }
    )


def with_first_stage(config: RunConfig, stage: RunConfig, margin_mm: float) -> RunConfig:
    """The configuration of a run with that of its first stage, both complete."""
    planned = {
        "use": "on",
        "margin_mm": margin_mm,
        "preprocess": stage.preprocess.steps,
        "options": stage.model.options,
        "patch_zyx": stage.train.patch_zyx,
        "batch_size": stage.train.batch_size,
    }
    first = config.first_stage.model_copy(update=planned)
    return config.model_copy(update={"first_stage": first})


def first_stage_run(config: RunConfig) -> RunConfig:
    """The configuration of the run that trains the first stage of a complete one."""
    stage, train = config.first_stage, config.train
    changes: dict[str, Any] = {
        "patch_zyx": stage.patch_zyx, "batch_size": stage.batch_size, "freeze": (), "trackers": (),
    }  # fmt: skip
    if train.steps is not None:
        changes["steps"] = max(1, round(stage.share * train.steps))
    if train.epochs is not None:
        changes["epochs"] = max(1, round(stage.share * train.epochs))
    if train.time is not None:
        changes["time"] = f"{stage.share * parse_duration(train.time):.3f}s"
    return config.model_copy(
        update={
            "preprocess": config.preprocess.model_copy(update={"steps": stage.preprocess}),
            "model": config.model.model_copy(update={"options": stage.options, "init": ""}),
            "train": train.model_copy(update=changes),
            "predict": config.predict.model_copy(update={"tile_zyx": None, "postprocess": ()}),
            "first_stage": FirstStageConfig(),
        }
    )


def shown(config: RunConfig) -> dict[str, Any] | str:
    """A first stage in `plan.json`."""
    stage = config.first_stage
    if stage.use != "on":
        return "off"
    found = (s["spacing_xyz"] for s in stage.preprocess if s["kind"] == "resample")
    return {
        "spacing_xyz": list(next(found, ())), "patch_zyx": list(stage.patch_zyx or ()),
        "batch_size": stage.batch_size, "share": stage.share, "margin_mm": stage.margin_mm,
    }  # fmt: skip
