"""From a fingerprint to a complete configuration, in the manner of nnU-Net but under the device's budget.

Every choice stands in `plan.json` with its reason. What the user set is kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctseg import plugins
from ctseg.config import PreprocessConfig, RunConfig, TaskConfig
from ctseg.data.pipeline import Pipeline
from ctseg.data.steps import Orient, Resample, Step, step_to_dict
from ctseg.engine.inference.tiling import fit_tile
from ctseg.engine.model.runtime import Runtime
from ctseg.errors import BadInput
from ctseg.planning.fingerprint import Fingerprint
from ctseg.planning.intensities import normalisation
from ctseg.planning.regression import augmented, keep_grid, planned_steps, unnormalised
from ctseg.planning.slicewise import slices_patch, slices_tile, spacing_in_plane
from ctseg.planning.spacing import spacing_in_space
from ctseg.specs import Constraints, NetworkPlan, Task
from ctseg.volume.geometry import Geometry

Zyx = tuple[int, int, int]
Spacing = tuple[float, float, float]
RESHAPING = ("downscale", "transpose", "crop_or_pad", "pad_to_multiple")
"""Steps beside `resample` that decide how large a scan and its voxels are for the network."""
MOST_WITH_SIDES = 30.0
"""Scans whose labels name sides are turned by so many degrees at most."""
CONTEXT = 0.25
"""A patch should see at least this share of a median scan; else the spacing is made coarser, as far as allowed."""
MOST_PATCHES = 16
"""Largest planned batch."""


@dataclass(frozen=True)
class Budget:
    """What a device allows.

    Attributes:
        patch_voxels: of one patch.
        features: width at full resolution.
        max_features: width of the deepest level.
        batch_size: patches a step.
        coarsest: how much coarser than the data's own spacing the target may get.
    """

    patch_voxels: int
    features: int
    max_features: int
    batch_size: int
    coarsest: float


BUDGETS = {
    "cpu": Budget(48**3, 24, 192, 2, 2.5),
    "mps": Budget(80**3, 32, 320, 2, 1.5),
    "cuda": Budget(128**3, 32, 320, 2, 1.0),
}


@dataclass
class Plan:
    """Choices and their reasons, as they are made."""

    choices: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, value: Any, reason: str) -> Any:
        self.choices[name] = {"value": value, "reason": reason}
        return value


def make_plan(
    config: RunConfig,
    task: Task,
    channels: tuple[str, ...],
    found: Fingerprint,
    runtime: Runtime,
    *,
    one_volume: bool = False,
) -> tuple[RunConfig, Plan]:
    """The configuration with nothing left out, and why.

    Args:
        one_volume: whether all cases are parts of one scan, and so have one scale of intensity.

    Raises:
        BadInput: the loss does not serve the task, or the patch does not suit the network.
    """
    plan = Plan()
    if task.kind == "regression":
        config = unnormalised(augmented(keep_grid(config), task, plan), plan)
    budget = BUDGETS[runtime.device.type]
    spec = plugins.architecture(config.model.architecture)
    demands = spec.constraints_for(plugins.make_config(spec, config.model.options))
    flat = demands.dims == 2
    spacing = _spacing(found, config.preprocess.spacing_xyz, budget, plan, flat=flat)
    steps = config.preprocess
    if not steps.steps:
        asked = config.preprocess.spacing_xyz
        kept = (flat, False, False) if asked is None else tuple(not s for s in asked[::-1])
        steps = _preprocess(found, channels, spacing, one_volume, plan, kept_zyx=kept)
        if task.kind == "regression":
            steps = planned_steps(steps, config.preprocess, found.targets, plan)
    resampled = next((s for s in steps.steps if s.get("kind") == "resample"), None)
    if resampled is not None:
        x, y, z = resampled["spacing_xyz"]
        own = found.median_spacing_zyx
        spacing = (z or own[0], y or own[1], x or own[2])
    else:
        spacing = found.median_spacing_zyx
    median_shape = found.median_shape_at(spacing)
    if any(s.get("kind") in RESHAPING for s in steps.steps):
        own_grid = Geometry(
            found.median_shape_at(found.median_spacing_zyx), found.median_spacing_zyx[::-1]
        )
        grid = Pipeline.of(steps).typical_grid(own_grid)
        spacing, median_shape = grid.spacing_zyx, grid.shape_zyx
    patch = config.train.patch_zyx
    if patch is None and flat:
        patch, reason = slices_patch(
            median_shape, spacing, patch_voxels=budget.patch_voxels, patches=MOST_PATCHES,
            step_voxels=budget.batch_size * budget.patch_voxels, context=demands.context_slices,
        )  # fmt: skip
        plan.note("patch_zyx", list(patch), reason)
    elif patch is None:
        patch = _patch(median_shape, spacing, budget, plan)
    model, constraints, patch = _network(config, task, len(channels), patch, spacing, budget, plan)
    batch = config.train.batch_size or _batch(patch, budget, plan)
    loss = config.loss.name or plan.note(
        "loss", {"classes": "dice_ce", "channels": "bce_dice", "regression": "smooth_l1"}[task.kind],
        f"the usual one for the task '{task.kind}'",
    )  # fmt: skip
    if task.kind not in plugins.loss(loss).tasks:
        serves = [n for n in plugins.names("loss") if task.kind in plugins.loss(n).tasks]
        raise BadInput(
            f"The loss '{loss}' does not serve the task '{task.kind}'.",
            hint=f"These do: {', '.join(serves)}",
        )
    options = dict(config.loss.options)
    plugins.make_config(plugins.loss(loss), options)
    is_sgd = config.train.optimizer in ("sgd", "nesterov", "momentum")
    decay = config.train.weight_decay
    if decay is None:
        decay = plan.note(
            "weight_decay", 3e-5 if is_sgd else 0.01, f"the usual one for {config.train.optimizer}"
        )
    lr = config.train.lr or plan.note(
        "lr", 0.01 if is_sgd else 2e-3,
        f"the usual one for {config.train.optimizer}",
    )  # fmt: skip
    tile, reason = patch, "the patch that was trained on"
    if flat and constraints.fixed_tile_zyx is None:
        tile, reason = slices_tile(
            patch, patch_voxels=budget.patch_voxels, context=constraints.context_slices
        )
    tile = config.predict.tile_zyx or plan.note("tile_zyx", tile, reason)
    tile = fit_tile(
        tile, constraints.stride_zyx, constraints.min_tile_zyx, constraints.fixed_tile_zyx
    )
    augment = config.augment.resolved(patch, cpu=runtime.device.type == "cpu")
    if config.augment.preset == "default":
        plan.note("augment", augment.preset, "trainings on a CPU are short" if augment.preset == "gentle"
                  else "nnU-Net's set")  # fmt: skip
    if task.mirror_pairs and config.augment.rotation_degrees is None:
        z, y, x = (min(angle, MOST_WITH_SIDES) for angle in augment.rotation_degrees or (0, 0, 0))
        if (z, y, x) != augment.rotation_degrees:
            augment = augment.model_copy(update={"rotation_degrees": (z, y, x)})
            plan.note("rotation_degrees", [z, y, x], "half turns would put left where right is")
    # a mirrored view of left and right labels has them the wrong way round
    mirror = config.predict.mirror_axes
    if mirror is None:
        mirrored = augment.mirror_axes or ()
        mirror = tuple(axis for axis in mirrored if not (task.mirror_pairs and axis == "x"))
    resolved = config.model_copy(
        update={
            "task": TaskConfig.of(task),
            "preprocess": steps,
            "model": config.model.model_copy(update={"options": model}),
            "loss": config.loss.model_copy(update={"name": loss}),
            "augment": augment,
            "train": config.train.model_copy(
                update={"patch_zyx": patch, "batch_size": batch, "lr": lr, "weight_decay": decay}
            ),
            "predict": config.predict.model_copy(update={"tile_zyx": tile, "mirror_axes": mirror}),
        }
    )
    return resolved, plan


def _spacing(
    found: Fingerprint,
    wanted_xyz: Spacing | None,
    budget: Budget,
    plan: Plan,
    *,
    flat: bool = False,
) -> Spacing:
    """nnU-Net's target spacing, made coarser evenly where a patch would see too little of a scan.

    Args:
        flat: for a slice-wise network; it counts what a slice holds, and slices stay where they are.
    """
    if wanted_xyz is not None:
        own = found.median_spacing_zyx
        z, y, x = (w or o for w, o in zip(wanted_xyz[::-1], own, strict=True))
        plan.note("target_spacing_zyx", [z, y, x], "as asked")
        return z, y, x
    find = spacing_in_plane if flat else spacing_in_space
    spacing, reason = find(
        found, patch_voxels=budget.patch_voxels, coarsest=budget.coarsest, share=CONTEXT
    )
    plan.note("target_spacing_zyx", [_mm(s, 4) for s in spacing], reason)
    return spacing


def _preprocess(
    found: Fingerprint,
    channels: tuple[str, ...],
    spacing: Spacing,
    one_volume: bool,
    plan: Plan,
    *,
    kept_zyx: Sequence[bool],
) -> PreprocessConfig:
    """The usual steps.

    Args:
        kept_zyx: along which axes every scan keeps its own spacing.
    """
    steps: list[Step] = [Orient()]
    own = np.asarray(found.spacings_zyx)
    if np.allclose(own, np.where(kept_zyx, own, spacing), rtol=1e-3):
        plan.note("resample", False, "every scan has the target spacing already")
    else:
        z, y, x = (0.0 if kept else _mm(s, 6) for s, kept in zip(spacing, kept_zyx, strict=True))
        steps.append(Resample((x, y, z)))
    steps += normalisation(found, channels, one_volume, plan)
    return PreprocessConfig(steps=tuple(step_to_dict(step) for step in steps))


def _mm(length: float, digits: int) -> float:
    """A length with so many decimals, or digits where it is small: voxels may measure nanometres."""
    return round(length, digits) if length >= 0.1 else float(f"{length:.{digits}g}")


def _patch(shape: Zyx, spacing: Spacing, budget: Budget, plan: Plan) -> Zyx:
    """As close to a cube in mm as the scans and the budget allow, in multiples of 8 where the axis is long."""
    aspect = 1 / np.asarray(spacing)
    limit = np.array([8 * math.ceil(n / 8) if n > 8 else n for n in shape], float)
    patch = _shares(aspect, limit, budget.patch_voxels)
    thin = (patch < 8) & (limit > 8)
    if float(np.prod(np.where(thin, 8, patch))) > 1.5 * budget.patch_voxels:
        patch[thin] = 8  # which it gets in any case: then the other axes give way
        room = budget.patch_voxels / 8 ** int(thin.sum())
        patch[~thin] = _shares(aspect[~thin], limit[~thin], room)
    z, y, x = (
        int(max(8, 8 * round(p / 8))) if n > 8 else int(n)
        for p, n in zip(patch, limit, strict=True)
    )
    plan.note(
        "patch_zyx", [z, y, x],
        f"near a cube in mm, within the median scan of {shape} voxels and {budget.patch_voxels} voxels",
    )  # fmt: skip
    return z, y, x


def _shares(aspect: Any, limit: Any, voxels: float) -> Any:
    """Sides of a box of so many voxels in the proportions of `aspect`, none longer than its limit."""
    sides = aspect * (voxels / np.prod(aspect)) ** (1 / len(aspect))
    for _ in range(3):  # what an axis cannot use goes to the others
        full = sides >= limit
        sides[full] = limit[full]
        free = ~full
        if not free.any() or not full.any():
            break
        room = voxels / float(np.prod(sides[full]))
        sides[free] = aspect[free] * (room / float(np.prod(aspect[free]))) ** (1 / int(free.sum()))
    return np.minimum(sides, limit)


def _network(
    config: RunConfig,
    task: Task,
    in_channels: int,
    patch: Zyx,
    spacing: Spacing,
    budget: Budget,
    plan: Plan,
) -> tuple[dict[str, Any], Constraints, Zyx]:
    """Options of the network with what the user set on top, its constraints, and a patch that it accepts."""
    spec = plugins.architecture(config.model.architecture)
    depth = max(2, min(6, int(math.log2(max(patch) / 4)) + 1))
    features = tuple(min(budget.max_features, budget.features * 2**i) for i in range(depth))
    wanted = dict(config.model.options)
    dims = spec.constraints_for(plugins.make_config(spec, wanted)).dims
    given = wanted.get("features")  # a plugin's network may mean a single number by it
    if spec.from_plan is not None:
        made = spec.from_plan(
            NetworkPlan(
                patch, spacing, in_channels, task.out_channels,
                tuple(given) if isinstance(given, list | tuple) else features, dims,
            )
        )  # fmt: skip
        planned = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
        if isinstance(given, list | tuple) and len(given) != len(planned.get("features", ())):
            for key in ("kernels_zyx", "strides_zyx", "blocks_per_level"):
                planned.pop(key, None)  # they belong to another depth
        options = planned | wanted
        plan.note(
            "model.options",
            _plain(options),
            "fitted to patch and spacing by the network's own plan",
        )
    else:
        options = wanted
    made = plugins.make_config(spec, options)
    options = _plain({f.name: getattr(made, f.name) for f in dataclasses.fields(made)})
    constraints = spec.constraints_for(made)
    fitted = fit_tile(
        patch, constraints.stride_zyx, constraints.min_tile_zyx, constraints.fixed_tile_zyx
    )
    if fitted != patch:
        if config.train.patch_zyx is not None:
            raise BadInput(
                f"The patch {patch} does not suit {spec.name}: sizes must be multiples of "
                f"{constraints.stride_zyx} (z, y, x), {constraints.min_tile_zyx} at least.",
                hint=f"For example: --patch {','.join(map(str, fitted))}",
            )
        plan.note("patch_zyx", list(fitted), f"{patch} rounded up to what {spec.name} accepts")
    return options, constraints, fitted


def _batch(patch: Zyx, budget: Budget, plan: Plan) -> int:
    """As many as the voxels of the budget hold, 2 at least and 16 at most."""
    size = int(budget.batch_size * budget.patch_voxels / math.prod(patch))
    size = min(max(size, 2), MOST_PATCHES)
    plan.note(
        "batch_size", size, f"{budget.batch_size} x {budget.patch_voxels} voxels a step, 2 at least"
    )
    return size


def _plain(value: Any) -> Any:
    """Tuples as lists, as TOML and JSON give them back."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
