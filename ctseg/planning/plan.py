"""From a fingerprint to a complete configuration, with nnU-Net's rules, in the time and memory there are.

The user's settings are kept. Every other choice is made by a pure function that returns value and reason;
`plan.json` records both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ctseg import plugins
from ctseg.config import RunConfig, TaskConfig
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import Orient, Step, step_to_dict
from ctseg.planning import regression
from ctseg.planning.choices import Budget, Plan
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.first_stage import (
    choose_first_stage,
    coarse_spacing,
    first_stage_request,
    shown,
    sight_of,
    steps_of,
    with_first_stage,
)
from ctseg.planning.limits import Limits, Load, choose_budget, load_of
from ctseg.planning.network import choose_options, complete_options, fit_patch, plain
from ctseg.planning.optimisation import (
    check_loss,
    choose_augment,
    choose_loss,
    choose_lr,
    choose_mirror_axes,
    choose_rotation,
    choose_weight_decay,
)
from ctseg.planning.patch import choose_batch_size, choose_patch, choose_tile
from ctseg.planning.preprocessing import (
    choose_normalisation,
    choose_resampling,
    network_grid,
    scheme_of,
)
from ctseg.planning.spacing import CONTEXT, choose_spacing, rounded_mm
from ctseg.specs import NetworkPlan, Task


def make_plan(
    config: RunConfig,
    task: Task,
    channels: tuple[str, ...],
    fingerprint: Fingerprint,
    limits: Limits,
    *,
    one_volume: bool = False,
) -> tuple[RunConfig, Plan]:
    """The complete configuration, and the reason for each choice.

    Args:
        limits: device, time and memory, which bound patch, batch, width and spacing.
        one_volume: whether all cases are parts of one scan, and so share one intensity scale.

    Raises:
        BadInput: the loss does not serve the task, or the patch does not suit the network.
    """
    data = _Data(task, channels, fingerprint, one_volume)

    def load(budget: Budget) -> Load | None:
        resolved, _ = _plan_within(config, data, budget, limits.device)
        return load_of(resolved, in_channels=len(channels), out_channels=task.out_channels)

    def planned(limits: Limits) -> tuple[Budget, RunConfig, Plan]:
        chosen = choose_budget(limits, config.train.preset, load)
        resolved, plan = _plan_within(config, data, chosen[0], limits.device)
        size = {"value": chosen[0]._asdict(), "reason": chosen[1]}
        plan.choices = {"size": size, **plan.choices}
        return chosen[0], resolved, plan

    budget, resolved, plan = planned(limits)
    sight = sight_of(resolved, fingerprint)
    steps = None
    if config.first_stage.use == "auto" and sight.share < CONTEXT:
        steps = steps_of(config.train, limits, load(budget))
    chosen = choose_first_stage(resolved, sight, steps)
    if chosen is None:
        return resolved, plan
    wanted, reason = chosen
    if wanted:
        if limits.seconds is not None:  # what the first stage leaves
            share = 1 - config.first_stage.share
            budget, resolved, plan = planned(replace(limits, seconds=share * limits.seconds))
        spacing = coarse_spacing(resolved, fingerprint, slicewise=sight.slicewise)
        request = first_stage_request(config, resolved, spacing)
        stage, _ = _plan_within(request, data, budget, limits.device)
        resolved = with_first_stage(resolved, stage, sight_of(resolved, fingerprint).margin_mm)
    else:
        off = resolved.first_stage.model_copy(update={"use": "off"})
        resolved = resolved.model_copy(update={"first_stage": off})
    plan.note("first_stage", (wanted, reason), shown=shown(resolved))
    return resolved, plan


class _Data(NamedTuple):
    """What is known of the data."""

    task: Task
    channels: tuple[str, ...]
    fingerprint: Fingerprint
    one_volume: bool


def _plan_within(
    config: RunConfig, data: _Data, budget: Budget, device: str
) -> tuple[RunConfig, Plan]:
    """The complete configuration for one size of training."""
    plan, (task, channels, fingerprint, one_volume) = Plan(), data
    spec = plugins.architecture(config.model.architecture)
    options, augment, steps = config.model.options, config.augment, config.preprocess
    set_xyz = steps.spacing_xyz

    if task.kind == "regression":
        off, reason = regression.choose_disabled_transforms(augment, task)
        if off:
            plan.note("augment", (off, reason), shown=dict.fromkeys(off, 0))
            augment = augment.model_copy(update=off)
        if regression.loses_level(spec, options):
            options = {**options, "norm": plan.note("norm", regression.choose_norm())}
        if set_xyz is None and not steps.steps:
            set_xyz = regression.OWN_GRID
    dims = spec.constraints_for(plugins.make_config(spec, options)).dims

    spacing = choose_spacing(fingerprint, set_xyz, budget, slicewise=dims == 2)
    plan.note(
        "target_spacing_zyx", spacing,
        shown=[s if set_xyz else rounded_mm(s, 4) for s in spacing[0]],
    )  # fmt: skip
    if not steps.steps:
        kept_zyx = (dims == 2, False, False) if set_xyz is None else [not s for s in set_xyz][::-1]
        resample, reason = choose_resampling(fingerprint, spacing[0], kept_zyx)
        if resample is None:
            if task.kind == "regression" and all(kept_zyx):
                reason = "values are predicted on the grid of each scan"
            plan.note("resample", (False, reason))
        scaling = choose_normalisation(fingerprint, channels, one_volume=one_volume)
        plan.note("normalisation", scaling, shown=scheme_of(scaling[0]))
        planned: list[Step] = [Orient(), *([resample] if resample else []), *scaling[0]]
        if task.kind == "regression":
            scale = regression.choose_target_scale(fingerprint.targets)
            planned.append(plan.note("targets", scale, shown=regression.scale_to_dict(scale[0])))
        chosen_steps = tuple(step_to_dict(step) for step in planned)
        steps = steps.model_copy(update={"steps": chosen_steps, "spacing_xyz": None})
    else:  # with what is usual where the user leaves an option out
        complete = tuple(step_to_dict(step) for step in Pipeline.of(steps).steps)
        steps = steps.model_copy(update={"steps": complete})

    spacing_zyx, median_shape = network_grid(steps, fingerprint)
    patch = config.train.patch_zyx
    if patch is None:
        demands = spec.constraints_for(plugins.make_config(spec, options))
        choice = choose_patch(median_shape, spacing_zyx, budget, demands)
        patch = plan.note("patch_zyx", choice, shown=list(choice[0]))
    if spec.from_plan is not None:
        network = NetworkPlan(patch, spacing_zyx, len(channels), task.out_channels, dims=dims)
        fitted = choose_options(spec, options, network, budget)
        options = plan.note("model.options", fitted, shown=plain(fitted[0]))
    options, constraints = complete_options(spec, options)
    accepted = fit_patch(
        patch, constraints, spec.name, set_by_user=config.train.patch_zyx is not None
    )
    if accepted[0] != patch:
        patch = plan.note("patch_zyx", accepted, shown=list(accepted[0]))
    batch_size = config.train.batch_size or plan.note(
        "batch_size", choose_batch_size(patch, budget)
    )

    loss = config.loss.name or plan.note("loss", choose_loss(task))
    check_loss(loss, config.loss.options, task)
    weight_decay = config.train.weight_decay
    if weight_decay is None:
        weight_decay = plan.note("weight_decay", choose_weight_decay(config.train.optimizer))
    lr = config.train.lr or plan.note("lr", choose_lr(config.train.optimizer))

    tile = config.predict.tile_zyx or plan.note("tile_zyx", choose_tile(patch, budget, constraints))
    resolved_augment, reason = choose_augment(augment, patch, on_cpu=device == "cpu")
    if augment.preset == "default":
        plan.note("augment", (resolved_augment.preset, reason))
    rotation = choose_rotation(augment, resolved_augment, task)
    if rotation is not None:
        degrees = plan.note("rotation_degrees", rotation, shown=list(rotation[0]))
        resolved_augment = resolved_augment.model_copy(update={"rotation_degrees": degrees})
    mirror_axes = config.predict.mirror_axes
    if mirror_axes is None:
        mirror_axes = choose_mirror_axes(resolved_augment, task, steps)

    train = {"patch_zyx": patch, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay}
    predict = {"tile_zyx": constraints.fit(tile), "mirror_axes": mirror_axes}
    resolved = config.model_copy(
        update={
            "task": TaskConfig.of(task),
            "preprocess": steps,
            "model": config.model.model_copy(update={"options": options}),
            "loss": config.loss.model_copy(update={"name": loss}),
            "augment": resolved_augment,
            "train": config.train.model_copy(update=train),
            "predict": config.predict.model_copy(update=predict),
        }
    )
    return resolved, plan
