"""Loss, learning rate, weight decay and augmentation of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctseg import plugins
from ctseg.config import AugmentConfig
from ctseg.errors import BadInput
from ctseg.specs import Task, Zyx

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


def choose_mirror_axes(augment: AugmentConfig, task: Task) -> tuple[Any, ...]:
    """The axes that `--tta` mirrors: those of training, without x where labels name sides.

    A mirrored view swaps left and right labels.
    """
    mirrored = augment.mirror_axes or ()
    return tuple(axis for axis in mirrored if not (task.mirror_pairs and axis == "x"))
