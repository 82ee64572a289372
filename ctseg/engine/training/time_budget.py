"""How many steps a run takes: as asked, or what a time budget allows, planned again while the run goes on."""

from __future__ import annotations

import copy
import math
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ctseg.config import parse_duration
from ctseg.data.loading import Loader
from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.job import TrainingJob
from ctseg.engine.training.optim import make_optimizer
from ctseg.engine.training.processes import Processes
from ctseg.engine.training.step import Loss, Stepper
from ctseg.engine.training.validate import validate, validation_model
from ctseg.errors import BadInput

VALIDATION_SHARE = 0.1
"""About this share of a time budget goes into validation."""
RESERVE = 0.03
"""Share of a time budget that is left unplanned."""
REVIEW_SHARE = 0.05
"""After this share of a time budget, what is left is planned again, and after each validation."""
LARGEST_SHARE = 0.35
"""Share of a time budget that validations may take where they are slow."""
FEW_STEPS = 100
"""A budget that allows fewer steps than this is worth a warning."""
EPOCHS = (4, 40)
"""Fewest and most validations of a run under a time budget, as planned at its start."""
MEASURED_FROM = 1000
"""Runs of at least so many steps are measured before their start, so that their time can be foretold."""
UNHURRIED = 300.0
"""A run without a time budget is measured as if so many seconds were left."""
MEASURING_SHARE = 0.2
"""Largest share of the time left in which steps are measured, however few they are then."""
WARM, FEW_TIMES = 2, 6
MOST_STEPS = 2**31
DIGITS = 6
"""Of seconds, so that the log holds all that a decision rests on."""
_PACES = ("step", "validation")


def plan_steps(job: TrainingJob, net: torch.nn.Module, loss: Loss, loader: Loader) -> State:
    """The number of steps and of those between validations, from steps, epochs or the time budget."""
    state = State(0, 1)
    steps, per_epoch = _length(job, state, net, loss, loader)
    state.steps, state.steps_per_epoch = steps, min(per_epoch, steps)
    if job.deadline is None and steps >= MEASURED_FROM:
        state.step_seconds, state.validation_seconds = job.processes.from_first(
            *measure(job, net, loss, loader)
        )
    return state


def extend_steps(
    job: TrainingJob, state: State, net: torch.nn.Module, loss: Loss, loader: Loader
) -> None:
    """Move the end of a run: to a step or epoch counted from its start, or by the time that the job has.

    The learning rate becomes that of a run of that length. Epochs without improvement are counted anew, so that a run
    that `train.patience` ended goes on.

    Raises:
        BadInput: the run is beyond that end already.
    """
    steps, per_epoch = _length(job, state, net, loss, loader)
    end = steps if job.deadline is None else state.step + steps
    if end <= state.step:
        raise BadInput(
            f"The run in {job.folder} has done {state.step} steps; it cannot be extended to {end}.",
            hint=f"Steps and epochs count from the start of the run: --extend --steps {2 * state.step}, for example.",
        )
    state.steps, state.steps_per_epoch, state.without_gain = end, min(per_epoch, end), 0
    state.rate_steps, state.turn_step, state.turn_position = 0, 0, 0.0


def _length(
    job: TrainingJob, state: State, net: torch.nn.Module, loss: Loss, loader: Loader
) -> tuple[int, int]:
    """Steps, and those between validations; what a time budget was computed from is noted in the state."""
    config = job.config.train
    if job.deadline is None:
        per_epoch = config.steps_per_epoch or 250
        return config.steps or (config.epochs or 1) * per_epoch, per_epoch
    measured = measure(job, net, loss, loader)
    step_seconds, validation_seconds, left = job.processes.from_first(
        *measured, max(job.deadline - time.monotonic(), 0.0)
    )
    epochs = int(VALIDATION_SHARE * left / max(validation_seconds, 1e-6))
    epochs = min(max(epochs, EPOCHS[0]), EPOCHS[1])
    affordable = int(LARGEST_SHARE * left / max(validation_seconds, 1e-6))
    epochs = max(1, min(epochs, affordable))  # slow validations must leave time to train
    planned = left - RESERVE * parse_duration(config.time or "0")
    steps = max(1, int((planned - epochs * validation_seconds) / step_seconds))
    per_epoch = config.steps_per_epoch or math.ceil(steps / epochs)
    state.step_seconds, state.validation_seconds = step_seconds, validation_seconds
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


def at_epoch_end(state: State) -> bool:
    """Whether whole volumes are validated at this step.

    Where a time budget moves the end, none is validated within the last half epoch before it.
    """
    if state.step == state.steps:
        return True
    near = state.budget_left is not None and 2 * (state.steps - state.step) < state.steps_per_epoch
    return state.step % state.steps_per_epoch == 0 and not near


def affordable_steps(state: State, seconds: float) -> int:
    """The most further steps that fit into this time together with the validations on their way and at their end."""

    def cost(count: int) -> float:
        per = state.steps_per_epoch
        end = state.step + count
        regular = max((end - (per + 1) // 2) // per - state.step // per, 0)
        return count * state.step_seconds + (regular + 1) * state.validation_seconds

    most = min(int(seconds / max(state.step_seconds, 1e-9)) + 1, MOST_STEPS) if seconds > 0 else 0
    return max(bisect_right(range(most + 1), seconds, key=cost) - 1, 0)


class Budget:
    """The time budget of a run under way: notes how fast it is, and moves the end of the run.

    Args:
        state: of the run; `budget_left` says how much time it has from now on, None that it has no budget.
        written: the lines of the log that a killed run wrote after its resume point; its decisions are made again.
    """

    def __init__(
        self, job: TrainingJob, state: State, written: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        self.state = state
        self.replayed = {
            line["step"]: line
            for line in written
            if line.get("kind") == "budget"
            and all(type(line.get(name)) is int for name in ("step", "steps"))
            and all(isinstance(line.get(f"{name}_seconds"), int | float) for name in _PACES)
        }
        self.kept = state.budget_left is not None and job.config.train.time is not None
        self.total = parse_duration(job.config.train.time or "0") if self.kept else 0.0
        self.reviewed = time.monotonic()
        self.deadline = self.reviewed + (state.budget_left or 0.0)
        self._done, self._aside = state.step, 0.0
        self._last_replayed = max(self.replayed, default=0)

    def left(self) -> float | None:
        """Seconds left, None without a budget."""
        return self.deadline - time.monotonic() if self.kept else None

    def validated(self, seconds: float) -> None:
        """Note how long a validation took, with all that is written after it."""
        self.state.validation_seconds = round(seconds, DIGITS)
        self._aside += seconds

    def paced(self) -> None:
        """Note how long the steps since the last review took; few of them count little."""
        now, state = time.monotonic(), self.state
        spent = max(now - self.reviewed - self._aside, 0.0)
        done = state.step - self._done
        if done:
            weight = 1.0
            if self.kept and state.step_seconds:
                weight = min(2 * spent / max(REVIEW_SHARE * self.total, 1e-9), 1.0)
            pace = weight * spent / done + (1 - weight) * state.step_seconds
            state.step_seconds = round(pace, DIGITS)
        self.reviewed, self._done, self._aside = now, state.step, 0.0

    def due(self) -> bool:
        """Whether what is left is to be planned again between two validations."""
        state = self.state
        if not self.kept or state.step >= state.steps:
            return False
        if state.step <= self._last_replayed:
            return state.step in self.replayed
        return time.monotonic() - self.reviewed - self._aside > REVIEW_SHARE * self.total

    def review(self) -> dict[str, Any] | None:
        """Move the end of the run to where the time left ends, and return the line of the log that says so.

        None for a run without a budget, at its end, or where the run to be repeated made no decision.
        """
        state, step = self.state, self.state.step
        if not self.kept or step >= state.steps:
            return None
        pace, validated = state.step_seconds, self._aside > 0
        self.paced()
        if pace and not validated:  # what slows steps down slows the next validation down as well
            state.validation_seconds = round(
                state.validation_seconds * state.step_seconds / pace, DIGITS
            )
        if step <= self._last_replayed:
            again = self.replayed.get(step)
            if again is None:
                return None
            state.move_end(max(again["steps"], step))
            state.step_seconds = again["step_seconds"]
            state.validation_seconds = again["validation_seconds"]
            return {name: value for name, value in again.items() if name != "kind"}
        before, left = state.steps, self.deadline - time.monotonic()
        state.move_end(step + affordable_steps(state, left - RESERVE * self.total))
        return {
            "step": step, "steps_before": before, "steps": state.steps, "left_seconds": round(left, 3),
            "step_seconds": state.step_seconds, "validation_seconds": state.validation_seconds,
        }  # fmt: skip


def measure(
    job: TrainingJob, net: torch.nn.Module, loss: Loss, loader: Loader
) -> tuple[float, float]:
    """Seconds of a training step and of a validation, measured on a copy of the network."""
    trial = copy.deepcopy(net)
    optimizer = make_optimizer(trial, job.config.train)
    stepper = Stepper(job, trial, loss, optimizer, loader)
    left = UNHURRIED if job.deadline is None else max(job.deadline - time.monotonic(), 1.0)
    least = 0.0 if job.deadline is None else 0.02 * left
    times = timed(stepper, seconds=(least, MEASURING_SHARE * left), processes=job.processes)
    model = validation_model(job, trial.eval())
    few = min(3, len(job.val))
    begun = time.monotonic()
    validate(model, job.val[:1], job.val_prepared[:1])
    a_case = time.monotonic() - begun
    if a_case < 0.02 * left:  # the first one takes a little longer
        begun = time.monotonic()
        validate(model, job.val[:few], job.val_prepared[:few])
        a_case = (time.monotonic() - begun) / few
    return statistics.median(times), a_case * -(-len(job.val) // job.processes.size)


def timed(
    call: Callable[[int], Any], *, seconds: tuple[float, float], processes: Processes
) -> list[float]:
    """Seconds of each of some calls, after two that do not count.

    Args:
        seconds: that the calls take together at least, and at most, with those that do not count.
    """
    times: list[float] = []
    least, most = seconds
    took = total = 0.0
    for step in range(WARM + 60):
        begun = time.monotonic()
        call(step)
        took = time.monotonic() - begun
        total += took
        if step >= WARM:
            times.append(took)
        enough = len(times) >= FEW_TIMES and sum(times) > least
        if processes.from_first(enough or total > most)[0]:
            break
    return times or [took]
