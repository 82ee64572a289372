"""What is planned otherwise for a regression: its task, the scale of its targets, its grid and its augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ctseg import plugins
from ctseg.config import PreprocessConfig, RunConfig, TaskConfig
from ctseg.data.steps import NormaliseTarget, step_to_dict
from ctseg.errors import BadInput
from ctseg.specs import DataSet, Label, Task
from ctseg.volume.io import open_ref

if TYPE_CHECKING:
    from ctseg.planning.plan import Plan

OF_THE_SCAN_ALONE = (
    "noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted", "shift", "cut_out",
)  # fmt: skip
"""Transforms that change a scan and not its target."""
TURNING = ("rotation", "turns", "elastic")
"""Transforms after which the components of a vector would have to turn too."""


def values_task(config: TaskConfig | None, dataset: DataSet) -> Task:
    """The task of a regression that names no labels: one output channel for each channel of the targets.

    The channels are named as the data set names them, else `value`, or `value_0`, `value_1`, ...
    """
    ignore = None if config is None else config.ignore
    if dataset.task is not None and dataset.task.labels and dataset.task.kind != "classes":
        named = [label.name for label in dataset.task.labels]
    else:
        case = next((c for c in dataset.cases if c.label is not None), None)
        if case is None or case.label is None:
            raise BadInput(f"No case of {dataset.name} has a target.")
        source = open_ref(case.label)
        try:
            count = source.channels
        finally:
            source.close()
        named = ["value"] if count == 1 else [f"value_{index}" for index in range(count)]
    labels = tuple(Label(name, (), number) for number, name in enumerate(named, start=1))
    return Task("regression", labels, ignore=ignore)


def keep_grid(config: RunConfig) -> RunConfig:
    """Plan on the scans' own grid unless a spacing is asked for: a coarser one would lose what is to be predicted."""
    if config.preprocess.spacing_xyz is not None or config.preprocess.steps:
        return config
    kept = config.preprocess.model_copy(update={"spacing_xyz": (0.0, 0.0, 0.0)})
    return config.model_copy(update={"preprocess": kept})


def planned_steps(
    steps: PreprocessConfig,
    wanted: PreprocessConfig,
    targets: Sequence[dict[str, float]],
    plan: Plan,
) -> PreprocessConfig:
    """The planned steps on the scan's own grid where that was kept, and the scale of the targets."""
    kept = list(steps.steps)
    if wanted.spacing_xyz is not None and not any(wanted.spacing_xyz):
        kept = [step for step in kept if step.get("kind") != "resample"]
        plan.note("resample", False, "values are predicted on the grid of each scan")
        plan.choices["target_spacing_zyx"]["reason"] = (
            "the median of the data; no scan is resampled"
        )
    scale = NormaliseTarget(
        tuple(float(f"{t['mean']:.6g}") for t in targets),
        tuple(float(f"{t['std']:.6g}") if t["std"] > 0 else 1.0 for t in targets),
    )
    plan.note(
        "targets", dataclasses.asdict(scale),
        "learnt in deviations from their mean, channel by channel; predictions come back in the targets' unit",
    )  # fmt: skip
    return steps.model_copy(update={"steps": (*kept, step_to_dict(scale)), "spacing_xyz": None})


def augmented(config: RunConfig, task: Task, plan: Plan) -> RunConfig:
    """Augmentation under which a target stays right; what was asked for is kept.

    Whatever changes the scan's values alone is off: the target would have to change with it. So is, for several
    output channels, whatever turns or mirrors: the channels may be a vector's components, which are not turned.
    """
    given = config.augment
    update: dict[str, Any] = {
        name: 0.0 for name in OF_THE_SCAN_ALONE if getattr(given, name, 0.0) is None
    }
    if task.out_channels > 1:
        update |= {name: 0.0 for name in TURNING if getattr(given, name, 0.0) is None}
        if given.mirror_axes is None:
            update["mirror_axes"] = ()
    if update:
        reason = "they would change the scan and not its target"
        if task.out_channels > 1:
            reason += "; nothing turns or mirrors, since several channels may be a vector, which would turn too"
        plan.note("augment", dict.fromkeys(update, 0), reason)
    return config.model_copy(update={"augment": given.model_copy(update=update)})


def unnormalised(config: RunConfig, plan: Plan) -> RunConfig:
    """Leave out instance normalisation where the network has an option for it and nothing else was asked for.

    It takes the mean and the deviation of each patch away, and with them the level that is to be predicted.
    """
    spec = plugins.architecture(config.model.architecture)
    default = {field.name: field.default for field in dataclasses.fields(spec.config)}.get("norm")
    if default != "instance" or {"norm", "layer_order"} & set(config.model.options):
        return config
    plan.note("norm", "none", "instance normalisation would take away the level of the values")
    options = {**config.model.options, "norm": "none"}
    return config.model_copy(update={"model": config.model.model_copy(update={"options": options})})
