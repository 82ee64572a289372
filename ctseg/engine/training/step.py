"""One optimizer step: batch, augmentation, network, loss, update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ctseg.data import sampling
from ctseg.data.augment.sides import Sides
from ctseg.data.augment.units import hounsfield
from ctseg.data.loading import Loader, Recipe
from ctseg.data.rng import NETWORK, seed_for
from ctseg.data.steps.target import Scale, target_scale
from ctseg.engine.inference.forward import out_of_memory, release
from ctseg.engine.training.job import TrainingJob
from ctseg.errors import OutOfMemory, RunFailed
from ctseg.losses.partial import without_undrawn

Loss = Callable[..., torch.Tensor]
Value = TypeVar("Value")


def loader_of(job: TrainingJob) -> Loader:
    """What makes the batches of a job; to be closed."""
    config, task = job.config, job.card.task.task()
    train, patch = config.train, config.train.patch_zyx
    assert patch is not None
    assert train.batch_size is not None
    device = job.runtime.device
    share = job.processes.share(train.batch_size)
    recipe = Recipe(
        patch, share, config.seed,
        augment=config.augment.resolved(patch, cpu=device.type == "cpu"),
        rule=sampling.rule_of(train, task),
        spacing_zyx=job.spacing_zyx,
        sides=Sides.of(task),
        units=hounsfield(config.preprocess.steps, job.card.in_channels),
        first_index=job.processes.rank * share,
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

    Where the memory does not suffice for a step, the batch is split into parts, whose gradients are added up; the
    loss is still that of the whole batch.

    Args:
        net: in training mode, on the device.
        loss: takes logits or, with deep supervision, a tuple of them.
        loader: makes the batches.

    Attributes:
        parts: in how many parts the batch of this process goes through the network.
    """

    def __init__(
        self, job: TrainingJob, net: torch.nn.Module, loss: Loss, optimizer: torch.optim.Optimizer,
        loader: Loader,
    ) -> None:  # fmt: skip
        self.job, self.net, self.loss, self.optimizer = job, net, loss, optimizer
        self.loader, self.processes, self.parts = loader, job.processes, 1
        share = job.processes.share(job.config.train.batch_size or 1)
        self.first_index = job.processes.rank * share
        self.scale = target_scale(job.card.preprocess.steps, job.card.out_channels)
        self.fp16 = job.runtime.precision == "fp16"
        self.scaler = torch.amp.GradScaler(job.runtime.device.type, enabled=self.fp16)
        norms = (m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm))
        self.statistics = [buffer for norm in norms for buffer in norm.buffers()]

    def __call__(self, step: int) -> float:
        """Do one step and return its loss.

        Raises:
            RunFailed: the loss or a gradient is not finite.
            OutOfMemory: the memory does not suffice for a single patch.
        """
        image, target, weight = self.loader.batch(step)
        # asks the device whether voxels are ignored, so before it has a network to compute
        indices, mask = loss_target(target, self.job.card.task.kind, self.scale)
        if self.processes.largest(int(mask is not None))[0] and mask is None:
            mask = torch.ones(
                image.shape[:1] + image.shape[2:], dtype=torch.bool, device=image.device
            )

        undrawn = self.loader.undrawn(step)

        def loss(logits: Any) -> torch.Tensor:
            aim = indices
            if undrawn is not None:
                logits, aim = without_undrawn(logits, indices, undrawn)
            with self.processes.shared_batch():
                return self.loss(logits, aim, weight=weight, mask=mask)

        before = [buffer.clone() for buffer in self.statistics]
        while (value := self._gradients(step, image, loss)) is None:
            for buffer, old in zip(self.statistics, before, strict=True):
                buffer.copy_(old)
            self.optimizer.zero_grad(set_to_none=True)
            release(self.job.runtime.device)
            self._split(len(image))
        return self._update(step, value)

    def _update(self, step: int, value: torch.Tensor) -> float:
        """Change the weights by the gradients, and return the loss."""
        parameters = list(self.net.parameters())
        value = self.processes.average(parameters, value)
        self.scaler.unscale_(self.optimizer)
        most = self.job.config.train.clip_grad
        norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if most is None else most)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        result, length = torch.stack([value.detach().float(), norm.float()]).tolist()
        if not math.isfinite(result):
            raise self._spoilt("loss", result, step)
        if not math.isfinite(length) and not self.fp16:  # its scaler leaves such steps out
            raise self._spoilt("gradient", length, step)
        return float(result)

    def _gradients(
        self, step: int, image: torch.Tensor, loss: Callable[[Any], torch.Tensor]
    ) -> torch.Tensor | None:
        """Compute the gradients and return the loss; None where the memory of any process does not suffice."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.parts > 1:
            return self._gradients_by_parts(step, image, loss)
        logits = self._attempt(lambda: self._forward(step, image, 0))
        if logits is None:
            return None
        value = self._loss(loss, logits)
        return value if value is not None and self._attempt(lambda: self._backward(value)) else None

    def _gradients_by_parts(
        self, step: int, image: torch.Tensor, loss: Callable[[Any], torch.Tensor]
    ) -> torch.Tensor | None:
        """The same with a part of the batch at a time.

        All logits are computed first, without what the backward pass needs; the loss of the whole batch gives their
        gradients, and with these each part passes through the network again, forth and back (Gao et al. 2021).
        """
        size = -(-len(image) // self.parts)
        starts = range(0, len(image), size)

        def forward() -> list[torch.Tensor]:
            before = [buffer.clone() for buffer in self.statistics]
            with torch.no_grad():
                parts = [levels_of(self._forward(step, image[a : a + size], a)) for a in starts]
            for buffer, old in zip(self.statistics, before, strict=True):
                buffer.copy_(old)
            return [torch.cat(level).requires_grad_() for level in zip(*parts, strict=True)]

        levels = self._attempt(forward)
        if levels is None:
            return None
        value = self._loss(loss, levels[0] if len(levels) == 1 else tuple(levels))
        if value is None or not self._attempt(lambda: self._backward(value)):
            return None
        gradients = [level.grad for level in levels]

        def backward() -> bool:
            for a in starts:
                outputs = levels_of(self._forward(step, image[a : a + size], a))
                with self.job.runtime.kernels():
                    torch.autograd.backward(
                        outputs, [g[a : a + size] for g in gradients if g is not None]
                    )
            return True

        return value if self._attempt(backward) else None

    def _forward(self, step: int, image: torch.Tensor, first: int) -> Any:
        """Logits of consecutive samples, the first of which has this index in the batch of this process."""
        index = self.first_index + first
        # dropout and the like draw from the same key, so that a resumed run repeats them
        torch.manual_seed(seed_for(self.job.config.seed, step, index, NETWORK))
        with self.job.runtime.autocast():
            return self.net(self.job.runtime.tensor(image))

    def _backward(self, value: torch.Tensor) -> bool:
        scaled: Any = self.scaler.scale(value)
        with self.job.runtime.kernels():
            scaled.backward()
        return True

    def _loss(self, loss: Callable[[Any], torch.Tensor], logits: Any) -> torch.Tensor | None:
        """The loss; None where the memory does not suffice. Several processes compute it together or not at all."""
        if self.processes.size > 1:
            return loss(logits)
        return self._attempt(lambda: loss(logits))

    def _attempt(self, call: Callable[[], Value]) -> Value | None:
        """What a call returns; None where the memory of any process does not suffice for its call."""
        result = None
        try:
            result = call()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        return None if self.processes.largest(int(result is None))[0] else result

    def _split(self, count: int) -> None:
        """Let the batch pass in twice as many parts.

        Raises:
            OutOfMemory: it does so patch by patch already.
        """
        if self.parts >= count:
            raise OutOfMemory("One patch does not fit into memory.")
        self.parts = min(2 * self.parts, count)

    def _spoilt(self, what: str, value: float, step: int) -> RunFailed:
        """The error for a loss or gradient that is not finite."""
        cases = ", ".join(self.loader.case_ids(step, self.job.config.train.batch_size or 1))
        return RunFailed(
            f"The {what} became {value} at step {step}, in a batch of the cases {cases}.",
            hint="Look at these cases (ctseg data inspect). If they are sound, lower the learning rate (--lr) or train "
            "in fp32 (--precision fp32). The run folder keeps the best weights and the last resume point.",
        )


def levels_of(logits: Any) -> tuple[torch.Tensor, ...]:
    """Logits as a tuple, be they one tensor or several."""
    return (logits,) if isinstance(logits, torch.Tensor) else tuple(logits)
