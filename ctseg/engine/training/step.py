"""One optimizer step: batch, augmentation, network, loss, update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ctseg.config import RunConfig
from ctseg.data import sampling
from ctseg.data.augment.sides import Sides
from ctseg.data.augment.units import hounsfield
from ctseg.data.loading import Loader, Recipe
from ctseg.data.rng import NETWORK, seed_for
from ctseg.data.steps.target import Scale, target_scale
from ctseg.engine.training.job import TrainingJob
from ctseg.errors import RunFailed

Loss = Callable[..., torch.Tensor]


def loader_of(job: TrainingJob) -> Loader:
    """What makes the batches of a job; to be closed."""
    config, task = job.config, job.card.task.task()
    train, patch = config.train, config.train.patch_zyx
    assert patch is not None
    assert train.batch_size is not None
    device = job.runtime.device
    recipe = Recipe(
        patch, train.batch_size, config.seed,
        augment=config.augment.resolved(patch, cpu=device.type == "cpu"),
        rule=sampling.rule_of(train, task),
        spacing_zyx=job.spacing_zyx,
        sides=Sides.of(task),
        units=hounsfield(config.preprocess.steps),
    )  # fmt: skip
    return Loader(job.train, recipe, device, workers=train.workers, cache=train.cache)


def loss_target(
    target: torch.Tensor, kind: str, scale: Scale | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The target as losses take it, and the mask of voxels that count (None where all do).

    Args:
        target: [B, T, Z, Y, X]: -1 where ignored; NaN for a regression.
        scale: mean and deviation of each channel of a regression's target.
    """
    if kind == "classes":
        target = target[:, 0].long()
        ignored = target < 0
        target = target.clamp_min(0)
    elif kind == "regression":
        ignored = target.isnan().any(1)
        target = target.nan_to_num(0.0).float()
        if scale is not None:
            mean, std = (target.new_tensor(n)[:, None, None, None] for n in scale)
            target = (target - mean) / std
    else:
        ignored = (target < 0).any(1)
        target = target.clamp_min(0).float()
    return target, ~ignored if bool(ignored.any()) else None


class Stepper:
    """Trains a network step by step.

    Args:
        net: in training mode, on the device.
        loss: takes logits or, with deep supervision, a tuple of them.
        loader: makes the batches.
    """

    def __init__(
        self, job: TrainingJob, net: torch.nn.Module, loss: Loss, optimizer: torch.optim.Optimizer,
        loader: Loader,
    ) -> None:  # fmt: skip
        self.job, self.net, self.loss, self.optimizer = job, net, loss, optimizer
        self.loader = loader
        self.scale = target_scale(job.card.preprocess.steps, job.card.out_channels)
        enabled = job.runtime.precision == "fp16"
        self.scaler = torch.amp.GradScaler(job.runtime.device.type, enabled=enabled)

    def __call__(self, step: int) -> float:
        """Do one step and return its loss.

        Raises:
            RunFailed: the loss is not finite.
        """
        config: RunConfig = self.job.config
        image, target, weight = self.loader.batch(step)
        # dropout and the like draw from the same key, so that a resumed run repeats them
        torch.manual_seed(seed_for(config.seed, step, 0, NETWORK))
        self.optimizer.zero_grad(set_to_none=True)
        with self.job.runtime.autocast():
            logits: Any = self.net(self.job.runtime.tensor(image))
        indices, mask = loss_target(target, self.job.card.task.kind, self.scale)
        value = self.loss(logits, indices, weight=weight, mask=mask)
        scaled: Any = self.scaler.scale(value)
        with self.job.runtime.kernels():
            scaled.backward()
        self.scaler.unscale_(self.optimizer)
        if config.train.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.train.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        result = float(value.detach())
        if not math.isfinite(result):
            raise RunFailed(
                f"The loss became {result} at step {step}.",
                hint="Lower the learning rate (--lr) or train in fp32 (--precision fp32).",
            )
        return result
