"""One optimizer step: batch, augmentation, network, loss, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ctseg.config import RunConfig
from ctseg.data import keyed, sampling
from ctseg.data.augment import augment, centre, margin
from ctseg.engine.job import Job
from ctseg.errors import RunFailed

Loss = Callable[..., torch.Tensor]


def make_batch(job: Job, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The augmented batch of a step, on the device.

    Returns:
        images [B, C, *patch], targets [B, T, *patch], and weights [B, *patch] where there are weight maps.
    """
    train, patch = job.config.train, job.config.train.patch_zyx
    assert patch is not None
    assert train.batch_size is not None
    wide = margin(job.config.augment, patch)
    images, targets, weights = sampling.batch(
        job.train, patch, size=train.batch_size,
        rule=sampling.rule_of(train, job.card.task.task()),
        seed=job.config.seed, step=step, margin_zyx=wide,
    )  # fmt: skip
    maps = 0 if weights is None else weights.shape[1]
    if weights is not None:  # weights move with the scan, as channels behind its own
        images = np.concatenate([images, weights], 1)
    device = job.runtime.device
    image = torch.from_numpy(images).to(device, non_blocking=True)
    target = torch.from_numpy(targets).to(device, non_blocking=True)
    if job.config.augment.preset == "none":
        image, target = centre(image, patch), centre(target, patch)
    else:
        image, target = augment(
            image, target, job.config.augment, patch, seed=job.config.seed, step=step,
            spacing_zyx=job.spacing_zyx, maps=maps,
        )  # fmt: skip
    return (image[:, :-1], target, image[:, -1]) if maps else (image, target, None)


def loss_target(target: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The target as losses take it, and the mask of voxels that count (None where all do)."""
    if kind == "classes":
        target = target[:, 0].long()
        ignored = target < 0
        target = target.clamp_min(0)
    else:
        ignored = (target < 0).any(1)
        target = target.clamp_min(0).float()
    return target, ~ignored if bool(ignored.any()) else None


class Stepper:
    """Trains a network step by step.

    Args:
        net: in training mode, on the device.
        loss: takes logits or, with deep supervision, a tuple of them.
    """

    def __init__(
        self, job: Job, net: torch.nn.Module, loss: Loss, optimizer: torch.optim.Optimizer
    ) -> None:
        self.job, self.net, self.loss, self.optimizer = job, net, loss, optimizer
        enabled = job.runtime.precision == "fp16"
        self.scaler = torch.amp.GradScaler(job.runtime.device.type, enabled=enabled)

    def __call__(self, step: int) -> float:
        """Do one step and return its loss.

        Raises:
            RunFailed: the loss is not finite.
        """
        config: RunConfig = self.job.config
        image, target, weight = make_batch(self.job, step)
        # dropout and the like draw from the same key, so that a resumed run repeats them
        torch.manual_seed(keyed.seed_for(config.seed, step, 0, keyed.NETWORK))
        self.optimizer.zero_grad(set_to_none=True)
        with self.job.runtime.autocast():
            logits: Any = self.net(self.job.runtime.tensor(image))
        indices, mask = loss_target(target, self.job.card.task.kind)
        value = self.loss(logits, indices, weight=weight, mask=mask)
        scaled: Any = self.scaler.scale(value)
        scaled.backward()
        self.scaler.unscale_(self.optimizer)
        if config.train.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.train.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        result = float(value.detach())
        if not result < float("inf"):
            raise RunFailed(
                f"The loss became {result} at step {step}.",
                hint="Lower the learning rate (--lr) or train in fp32 (--precision fp32).",
            )
        return result
