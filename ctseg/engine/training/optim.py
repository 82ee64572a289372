"""Optimizers, schedulers and averaged weights by name: those of timm, with a Muon of our own."""

from __future__ import annotations

from typing import Any

import torch

from ctseg.card import Initial
from ctseg.config import TrainConfig
from ctseg.engine.training.initial import parameter_groups
from ctseg.engine.training.muon import Muon
from ctseg.errors import ConfigError, UnknownName
from ctseg.nets.timm_import import timm

__all__ = ["SCHEDULES", "Schedule", "check_names", "make_optimizer", "timm"]

SCHEDULES = ("poly", "cosine", "tanh", "step", "multistep", "constant")


def check_names(config: TrainConfig) -> None:
    """Refuse an optimizer or schedule that does not exist.

    Raises:
        UnknownName: with the nearest one.
    """
    known = timm().optim.list_optimizers()
    if config.optimizer not in known:
        raise UnknownName("optimizer", config.optimizer, known)
    if config.schedule not in SCHEDULES:
        raise UnknownName("schedule", config.schedule, SCHEDULES)


def make_optimizer(
    net: torch.nn.Module, config: TrainConfig, initial: Initial | None = None
) -> torch.optim.Optimizer:
    """The optimizer of that name, with no decay on biases and norms.

    `muon` is our own, which also suits processors without bfloat16; all others are timm's.

    Args:
        initial: the model that training began with; what it brought gets `init_lr_scale` of the learning rate.
    """
    check_names(config)
    parameters: Any = net
    if initial is not None and config.init_lr_scale != 1:
        parameters = parameter_groups(
            net, initial.remade, decay=config.weight_decay or 0.0, scale=config.init_lr_scale
        )
    momentum = config.momentum
    if momentum is None:
        momentum = 0.95 if "muon" in config.optimizer else 0.99
    own = config.optimizer == "muon"
    optimizer: torch.optim.Optimizer = timm().optim.create_optimizer_v2(
        parameters,
        opt="adamw" if own else config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay or 0.0,
        momentum=momentum,
    )
    if own:  # with the groups that timm has made
        kept = ("params", "lr", "weight_decay", "lr_scale")
        groups = [{k: g[k] for k in kept if k in g} for g in optimizer.param_groups]
        optimizer = Muon(groups, momentum=momentum)
    if config.schedule == "constant":  # which no schedule scales
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer


class Schedule:
    """The learning rate at each place of a run; a function of the place alone, so it needs no state.

    Args:
        steps: length of the run that it is planned for.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> None:
        self.optimizer = optimizer
        self.scheduler = None
        if config.schedule == "constant":
            return
        check_names(config)
        warmup = int(config.warmup * steps)
        rest = max(1, steps - warmup)  # in which the rate comes down, all the way
        try:
            self.scheduler, _ = timm().scheduler.create_scheduler_v2(
                optimizer,
                sched=config.schedule,
                num_epochs=rest,
                updates_per_epoch=1,
                step_on_epochs=False,
                warmup_epochs=warmup,
                warmup_lr=1e-2 * (config.lr or 1e-2),
                warmup_prefix=True,
                min_lr=0.0,
                # of poly it is the power; else what is left of the rate after a quarter, or after a half and 3/4
                decay_rate=0.9 if config.schedule == "poly" else 0.1,
                decay_epochs=max(1, rest // 4),
                decay_milestones=[rest // 2, 3 * rest // 4],
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"The schedule '{config.schedule}' cannot be made: {error}."
            ) from error

    def set(self, position: float) -> None:
        """Set the learning rate of a step, counted from 0, or of a place between two."""
        if self.scheduler is not None:
            self.scheduler.step_update(position)

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])
