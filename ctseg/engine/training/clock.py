"""The time of a run: what it has taken, what is foretold of it, and when its time budget is planned again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from ctseg.engine.training.checkpoint import State
from ctseg.engine.training.forecast import SECOND_AT, foretell, in_words, outcome
from ctseg.engine.training.job import TrainingJob
from ctseg.engine.training.run_log import RunLog
from ctseg.engine.training.time_budget import Budget

NOTABLE = 0.2
"""A change of the steps left by more than this share is told to the user."""


class Clock:
    """Times a run, and writes forecasts and changes of its end to the log.

    Args:
        fresh: whether the length of the run was planned just now; a run that is resumed makes again the decisions
            that it wrote after its resume point.
    """

    def __init__(self, job: TrainingJob, state: State, log: RunLog, *, fresh: bool) -> None:
        self.job, self.state, self.log, self.fresh = job, state, log, fresh
        self.begun, self.before = time.monotonic(), state.seconds
        if fresh:
            state.budget_left = None if job.deadline is None else job.deadline - self.begun
        self.processes = job.processes
        self.budget = Budget(job, state, () if fresh else log.cut)
        self._saved_at, self._validating, self._validation_seconds = self.begun, self.begun, 0.0
        self._ended = False
        if not fresh and state.step and state.validated == state.step:
            self._review()

    def start(self) -> None:
        """Foretell a run that was measured."""
        if self.fresh and self.state.step_seconds:
            self.state.forecasts.clear()
            self._foretell()

    def spent(self) -> float:
        """Seconds of the run, over all sessions."""
        return self.before + time.monotonic() - self.begun

    def left(self) -> float | None:
        """Seconds left of the time budget; None without one."""
        return self.budget.left()

    def seconds(self) -> tuple[float, float]:
        """Those of the run, and of the last validation."""
        return self.spent(), self._validation_seconds

    def saved(self) -> None:
        self._saved_at = time.monotonic()

    def since_saved(self) -> float:
        """Seconds since the last resume point."""
        return time.monotonic() - self._saved_at

    @contextlib.contextmanager
    def validation(self) -> Iterator[None]:
        """Time a validation."""
        self._validating = time.monotonic()
        yield
        self._validation_seconds = time.monotonic() - self._validating

    def due(self) -> bool:
        """Whether it is time to plan what is left again; the first process says so."""
        return self.processes.leads and self.budget.due()

    def step_done(self, due: bool) -> None:
        """Plan what is left again where it is due."""
        if due:
            self._review()
        self._foretell_again()

    def epoch_ended(self) -> None:
        """Note how long the validation and all that follows it took, and plan what is left again."""
        self.budget.validated(time.monotonic() - self._validating)
        if not self._ended:
            self._review()
            self._foretell_again()

    def end(self) -> None:
        """Write how true the forecasts were."""
        self._ended = True
        left = self.left()
        line = outcome(self.state, self.spent(), self.job.runtime.device)
        if left is not None:
            line |= {"budget_seconds": self.budget.total, "left_seconds": round(left, 1)}
        self.log.write("outcome", **line)

    def _review(self) -> None:
        if not self.budget.kept:
            return
        state = self.state
        line = self.budget.review() if self.processes.leads else None
        steps, state.step_seconds, state.validation_seconds = self.processes.from_first(
            state.steps, state.step_seconds, state.validation_seconds
        )
        state.move_end(int(steps))
        if line is None:
            return
        self.log.write("budget", **line)
        before, now = (line.get(name, 0) - line["step"] for name in ("steps_before", "steps"))
        if abs(now - before) > NOTABLE * max(before, 1):
            pace = "slower" if now < before else "faster"
            self.job.reporter.say(
                f"Note: the machine is {pace} than planned: {line['steps']} steps instead of {before + line['step']}."
            )

    def _foretell_again(self) -> None:
        """Foretell once more after some steps, when a validation was timed, too."""
        state = self.state
        known = state.step >= SECOND_AT and state.validation_seconds > 0
        if known and state.step < state.steps and not any(f["step"] for f in state.forecasts):
            self.budget.paced()
            self._foretell()

    def _foretell(self) -> None:
        line = foretell(self.state, self.spent(), self.job.runtime.device)
        self.log.write("forecast", **line)
        self.job.reporter.say(
            f"Forecast: {line['steps']} steps in {in_words(line['seconds'])} and {line['memory_mib']} MiB of memory."
        )
