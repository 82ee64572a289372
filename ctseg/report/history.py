"""The history of a run, as its log tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from ctseg.config.checking import parse_json
from ctseg.errors import FileProblem

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Epoch:
    """One line of `log.jsonl` of the kind `epoch`.

    Attributes:
        loss: mean training loss of the epoch.
        mean_dice: mean over the foreground labels in 0..1; None where the epoch was not validated.
        dice: Dice of each label.
        scores: for a regression, the mean of each metric (`psnr`, ...) for each channel.
        step: optimizer steps done.
        lr: learning rate at the end.
        seconds: wall time of the run so far.
        validation_seconds: of them, those of this epoch's validation; None in logs of earlier versions.
    """

    epoch: int
    loss: float | None
    mean_dice: float | None
    dice: dict[str, float]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    step: int = 0
    lr: float | None = None
    seconds: float | None = None
    validation_seconds: float | None = None


@dataclass(frozen=True)
class Step:
    """One line of the kind `step`: the mean loss since the line before, and the learning rate."""

    step: int
    loss: float | None
    lr: float | None


@dataclass(frozen=True)
class History:
    """What a log tells: its epochs and, between them, steps."""

    epochs: list[Epoch]
    steps: list[Step]


class _StepLine(BaseModel):
    step: int = Field(default=0, ge=0, le=10**12)
    loss: float | None = None
    lr: float | None = None


class _Line(_StepLine):
    """The part of such a line that is plotted."""

    epoch: int = Field(ge=0, le=10**9)
    seconds: float | None = None
    validation_seconds: float | None = None
    mean_dice: float | None = None
    dice: dict[str, float | None] | None = None
    scores: dict[str, dict[str, float | None]] | None = None


def read_epochs(log_jsonl: Path) -> list[Epoch]:
    """The epochs of a log, as `read_history`."""
    return read_history(log_jsonl).epochs


def read_history(log_jsonl: Path) -> History:
    """The epochs and steps of a log in order; if a resumed run repeats one, the later line counts.

    Raises:
        FileProblem: the log is missing, holds no epoch, or a line other than the last is not JSON.
    """
    try:
        lines = log_jsonl.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FileProblem(f"The log {log_jsonl} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FileProblem(f"The log {log_jsonl} is not UTF-8 text: {error.reason}.") from error
    epochs: dict[int, Epoch] = {}
    steps: dict[int, Step] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_json(line)
        except ValueError as error:
            if number == len(lines):  # cut short when the run was killed
                break
            raise FileProblem(f"Line {number} of {log_jsonl} is not JSON: {error}.") from error
        kind = entry.get("kind") if isinstance(entry, dict) else None
        where = f"line {number} of {log_jsonl}"
        if kind == "epoch":
            epoch = _epoch(entry, where=where)
            epochs[epoch.epoch] = epoch
        elif kind == "step":
            step = _checked(_StepLine, entry, where)
            steps[step.step] = Step(step.step, step.loss, step.lr)
    if not epochs:
        raise FileProblem(
            f"{log_jsonl} holds no finished epoch.", hint="Wait for the first epoch to end."
        )
    return History([epochs[n] for n in sorted(epochs)], [steps[n] for n in sorted(steps)])


def _checked(model: type[Model], entry: dict[str, Any], where: str) -> Model:
    try:
        return model.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise FileProblem(f"'{key}' in {where} is damaged: {first['msg']}.") from error


def _epoch(entry: dict[str, Any], *, where: str) -> Epoch:
    line = _checked(_Line, entry, where)
    dice = {name: value for name, value in (line.dice or {}).items() if value is not None}
    scores = {
        name: {label: value for label, value in values.items() if value is not None}
        for name, values in (line.scores or {}).items()
    }
    return Epoch(
        line.epoch, line.loss, line.mean_dice, dice, scores,
        line.step, line.lr, line.seconds, line.validation_seconds,
    )  # fmt: skip
