"""How many steps a run takes, and how many between validations: as asked, or what a time budget allows."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ctseg.data.loading import Loader
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.job import TrainingJob
from ctseg.engine.training.optim import make_optimizer
from ctseg.engine.training.step import Loss, Stepper
from ctseg.engine.training.validate import validate, validation_model
from ctseg.errors import BadInput

VALIDATION_SHARE = 0.1
"""About this share of a time budget goes into validation."""
SAFETY = 0.93
"""Share of a time budget that is planned with: a machine is rarely as quiet as when it was measured."""
LARGEST_SHARE = 0.35
"""The same where the fewest validations take longer."""
FEW_STEPS = 100
"""A budget that allows fewer steps than this is worth a warning."""
EPOCHS = (4, 40)
"""Fewest and most validations of a run under a time budget."""


def plan_steps(job: TrainingJob, net: torch.nn.Module, loss: Loss, loader: Loader) -> State:
    """The number of steps and of those between validations, from steps, epochs or the time budget."""
    steps, per_epoch = _length(job, net, loss, loader)
    return State(steps, min(per_epoch, steps))


def extend_steps(
    job: TrainingJob, state: State, net: torch.nn.Module, loss: Loss, loader: Loader
) -> None:
    """Move the end of a run: to a step or epoch counted from its start, or by the time that the job has.

    Epochs without improvement are counted anew, so that a run that `train.patience` ended goes on.

    Raises:
        BadInput: the run is beyond that end already.
    """
    steps, per_epoch = _length(job, net, loss, loader)
    end = steps if job.deadline is None else state.step + steps
    if end <= state.step:
        raise BadInput(
            f"The run in {job.folder} has done {state.step} steps; it cannot be extended to {end}.",
            hint=f"Steps and epochs count from the start of the run: --extend --steps {2 * state.step}, for example.",
        )
    state.steps, state.steps_per_epoch, state.without_gain = end, min(per_epoch, end), 0


def _length(job: TrainingJob, net: torch.nn.Module, loss: Loss, loader: Loader) -> tuple[int, int]:
    """Steps, and those between validations."""
    config = job.config.train
    if job.deadline is None:
        per_epoch = config.steps_per_epoch or 250
        return config.steps or (config.epochs or 1) * per_epoch, per_epoch
    step_seconds, validation_seconds = measure(job, net, loss, loader)
    left = max(job.deadline - time.monotonic(), 0.0)
    epochs = int(VALIDATION_SHARE * left / max(validation_seconds, 1e-6))
    epochs = min(max(epochs, EPOCHS[0]), EPOCHS[1])
    affordable = int(LARGEST_SHARE * left / max(validation_seconds, 1e-6))
    epochs = max(1, min(epochs, affordable))  # slow validations must leave time to train
    steps = max(1, int((SAFETY * left - epochs * validation_seconds) / step_seconds))
    per_epoch = config.steps_per_epoch or math.ceil(steps / epochs)
    job.reporter.say(
        f"A step takes {step_seconds:.3f} s and a validation {validation_seconds:.1f} s: "
        f"{steps} steps, {math.ceil(steps / per_epoch)} validations."
    )
    if steps < FEW_STEPS:
        job.reporter.say(
            f"Warning: {steps} steps teach a network little. Is the machine busy with something else? "
            "Otherwise give more --time or a smaller --patch."
        )
    return steps, per_epoch


def measure(
    job: TrainingJob, net: torch.nn.Module, loss: Loss, loader: Loader
) -> tuple[float, float]:
    """Seconds of a training step and of a validation, measured on a copy of the network."""
    trial = copy.deepcopy(net)
    optimizer = make_optimizer(trial, job.config.train)
    stepper = Stepper(job, trial, loss, optimizer, loader)
    times = timed(stepper, warm=2, least=6, seconds=0.02 * budget(job))
    model = validation_model(job, trial.eval())
    few = min(3, len(job.val))
    validate(model, job.val[:1], job.val_prepared[:1])
    begun = time.monotonic()
    validate(model, job.val[:few], job.val_prepared[:few])
    return statistics.median(times), (time.monotonic() - begun) / few * len(job.val)


def budget(job: TrainingJob) -> float:
    """Seconds left."""
    assert job.deadline is not None
    return max(job.deadline - time.monotonic(), 1.0)


def timed(call: Callable[[int], Any], *, warm: int, least: int, seconds: float) -> list[float]:
    """Seconds of each call, after some that do not count, until enough calls or seconds are through."""
    times: list[float] = []
    for step in range(warm + 60):
        begun = time.monotonic()
        call(step)
        if step >= warm:
            times.append(time.monotonic() - begun)
        if len(times) >= least and sum(times) > seconds:
            break
    return times
