"""Loss, learning rate, weight decay and augmentation of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctseg import plugins
from ctseg.config import AugmentConfig, PreprocessConfig
from ctseg.data.augment.sides import lateral_axis
from ctseg.data.pipeline import Pipeline
from ctseg.errors import BadInput
from ctseg.specs import Task, Zyx
from ctseg.volume.geometry import Geometry, as_matrix

MOST_WITH_SIDES = 30.0
"""Largest rotation in degrees for scans whose labels name sides."""
USUAL_LOSS = {"classes": "dice_ce", "channels": "bce_dice", "regression": "smooth_l1"}


def choose_loss(task: Task) -> tuple[str, str]:
    return USUAL_LOSS[task.kind], f"the usual one for the task '{task.kind}'"


def check_loss(name: str, options: Mapping[str, Any], task: Task) -> None:
    """Refuse a loss that does not serve the task, and options that the loss does not have.

    Raises:
        BadInput: the message names the losses that serve the task.
    """
    if task.kind not in plugins.loss(name).tasks:
        serves = [n for n in plugins.names("loss") if task.kind in plugins.loss(n).tasks]
        raise BadInput(
            f"The loss '{name}' does not serve the task '{task.kind}'.",
            hint=f"These do: {', '.join(serves)}",
        )
    plugins.make_config(plugins.loss(name), dict(options))


def choose_weight_decay(optimizer: str) -> tuple[float, str]:
    return (3e-5 if _is_sgd(optimizer) else 0.01), f"the usual one for {optimizer}"


def choose_lr(optimizer: str) -> tuple[float, str]:
    usual = {"muon": 8e-3}.get(optimizer, 0.01 if _is_sgd(optimizer) else 2e-3)
    return usual, f"the usual one for {optimizer}"


def _is_sgd(optimizer: str) -> bool:
    return optimizer in ("sgd", "nesterov", "momentum")


def choose_augment(given: AugmentConfig, patch: Zyx, *, on_cpu: bool) -> tuple[AugmentConfig, str]:
    """The augmentation with every setting filled in."""
    augment = given.resolved(patch, cpu=on_cpu)
    short = augment.preset == "gentle"
    return augment, "trainings on a CPU are short" if short else "nnU-Net's set"


def choose_rotation(
    given: AugmentConfig, resolved: AugmentConfig, task: Task
) -> tuple[tuple[float, float, float], str] | None:
    """Smaller angles where labels name sides; None if the angles stay as they are."""
    if not task.mirror_pairs or given.rotation_degrees is not None:
        return None
    z, y, x = (min(angle, MOST_WITH_SIDES) for angle in resolved.rotation_degrees or (0, 0, 0))
    if (z, y, x) == resolved.rotation_degrees:
        return None
    return (z, y, x), "half turns would put left where right is"


def choose_mirror_axes(
    augment: AugmentConfig, task: Task, steps: PreprocessConfig
) -> tuple[Any, ...]:
    """The axes that `--tta` mirrors: those of training, without the one between left and right where labels name sides.

    A view mirrored along that one swaps left and right labels. Where the steps leave it to the scan, it may be any.
    """
    without = _lateral_axes(steps) if task.mirror_pairs else ()
    return tuple(axis for axis in augment.mirror_axes or () if axis not in without)


def _lateral_axes(steps: PreprocessConfig) -> set[str]:
    """The axes of the network's grid that run between left and right, for scans stored in any order of axes."""
    pipeline = Pipeline.of(steps)
    directions = [as_matrix(np.roll(np.eye(3), shift, 1)) for shift in range(3)]
    grids = [pipeline.typical_grid(Geometry((64, 64, 64), direction=one)) for one in directions]
    return {"zyx"[lateral_axis(grid.direction)] for grid in grids}
