"""What the training loop is given, and what it gives back."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from ctseg.card import Card
from ctseg.config import RunConfig
from ctseg.data.store import Prepared
from ctseg.engine.evaluation.runs import RUN_FILE as RUN_FILE
from ctseg.engine.model.runtime import Runtime
from ctseg.engine.training.processes import Processes
from ctseg.errors import Terminated
from ctseg.machine import handled
from ctseg.metrics.report import Report
from ctseg.specs import Case


class Reporter(Protocol):
    """Who is told how far a run has come."""

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def update(self, done: float, total: float, text: str) -> None:
        """So much of the work under way is done."""
        ...

    def show(self, numbers: Mapping[str, str]) -> None:
        """Numbers that take the place of those before, for a view that is redrawn."""
        ...


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        pass

    def update(self, done: float, total: float, text: str) -> None:
        pass

    def show(self, numbers: Mapping[str, str]) -> None:
        pass


@dataclass(frozen=True)
class TrainingJob:
    """A run ready to go.

    Attributes:
        config: resolved; batch size, patch and learning rate are set.
        card: of the model to be, without members and figures.
        folder: the run folder; it exists.
        train: prepared cases to draw from.
        val, val_prepared: cases to validate on, with their sources and prepared.
        runtime: device, precision and memory layout.
        spacing_zyx: of the network's grid, mm, so that rotations turn millimetres.
        deadline: monotonic time at which a time budget ends, None without one.
        on_epoch: called with the run folder after each line in the log.
        extend: whether the length that `config` states is a new one for a run under way.
        processes: which train together; the first one writes.
    """

    config: RunConfig
    card: Card
    folder: Path
    train: Sequence[Prepared]
    val: Sequence[Case]
    val_prepared: Sequence[Prepared]
    runtime: Runtime
    spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)
    deadline: float | None = None
    reporter: Reporter = field(default_factory=Silent)
    on_epoch: Callable[[Path], None] | None = None
    extend: bool = False
    processes: Processes = field(default_factory=Processes)


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    Attributes:
        folder: of the run.
        report: of the best validation.
        mean_dice: mean foreground Dice of it, None where nothing could be scored.
        dice: by label.
        scores: means over the channels of a regression's metrics, e.g. `psnr`; empty for other tasks.
        steps: optimizer steps done.
        seconds: all sessions together.
    """

    folder: Path
    report: Report
    mean_dice: float | None
    dice: dict[str, float]
    steps: int
    seconds: float
    scores: dict[str, float | None] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """What notebooks show: the best validation, and where the report is."""
        from ctseg.markup import element, markup
        from ctseg.metrics.summary import summary_table

        place = element("p", "Run: ", self.folder, "; report: ", self.folder / "report.html")
        return markup(place, summary_table(self.report))


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals that end a training with a resume point."""


class Interrupt:
    """Ctrl-C and the other `SIGNALS` as a request that the loop meets between steps; a second one is not held back.

    Attributes:
        asked: the signal that this process has got, None so far.
        abrupt: whether a second one has ended it, perhaps in the midst of a step.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.abrupt = False
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Interrupt:
        self._open.enter_context(handled(SIGNALS, self._handle))
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.abrupt, self.asked = self.asked is not None, number
        if self.abrupt:
            self.check(number)

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @staticmethod
    def check(number: int | None) -> None:
        """Raise where a stop was asked for: by `asked`, or by what several processes agreed on.

        Several processes stop at the same step. So a signal that comes while they agree waits for the next step.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            Terminated: after another signal.
        """
        if number:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
