"""Plots of Dice and loss by epoch, from the log of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from pydantic import BaseModel, Field, ValidationError

from ctseg.config.checking import parse_json
from ctseg.errors import FileProblem
from ctseg.report.figure import GREY, INK, new_figure, plain_axes, save_png, short_name
from ctseg.task import PALETTE


@dataclass(frozen=True)
class Epoch:
    """One line of `log.jsonl` of the kind `epoch`.

    Attributes:
        loss: mean training loss of the epoch.
        mean_dice: mean over the foreground labels in 0..1; None where the epoch was not validated.
        dice: Dice of each label.
        scores: for a regression, the mean of each metric (`psnr`, ...) for each channel.
    """

    epoch: int
    loss: float | None
    mean_dice: float | None
    dice: dict[str, float]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


class _Line(BaseModel):
    """The part of such a line that is plotted."""

    epoch: int = Field(ge=0, le=10**9)
    loss: float | None = None
    mean_dice: float | None = None
    dice: dict[str, float | None] | None = None
    scores: dict[str, dict[str, float | None]] | None = None


def draw_curves(log_jsonl: Path, png: Path) -> None:
    """Plot a training run: Dice above, loss below, both by epoch.

    Lines of other kinds are skipped, and so is a last line cut short when the run was killed.

    Args:
        log_jsonl: the run's log, one JSON object a line.
        png: the picture to write.

    Raises:
        FileProblem: the log is missing or holds no epoch, or the picture cannot be written.
    """
    epochs = read_epochs(log_jsonl)
    figure = new_figure(8, 6)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 2)})
    if any(e.scores for e in epochs):
        _draw_psnr(upper, epochs)
    else:
        _draw_dice(upper, epochs)
    _draw_loss(lower, epochs)
    lower.set_xlabel("epoch", color=INK)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.align_ylabels((upper, lower))
    figure.subplots_adjust(left=0.09, right=0.97, top=0.92, bottom=0.09, hspace=0.12)
    save_png(figure, png)


def read_epochs(log_jsonl: Path) -> list[Epoch]:
    """The epochs of a log in order; if a resumed run repeats one, the later line counts.

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
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_json(line)
        except ValueError as error:
            if number == len(lines):  # cut short when the run was killed
                break
            raise FileProblem(f"Line {number} of {log_jsonl} is not JSON: {error}.") from error
        if isinstance(entry, dict) and entry.get("kind") == "epoch":
            epoch = _epoch(entry, where=f"line {number} of {log_jsonl}")
            epochs[epoch.epoch] = epoch
    if not epochs:
        raise FileProblem(
            f"{log_jsonl} holds no finished epoch.", hint="Wait for the first epoch to end."
        )
    return [epochs[number] for number in sorted(epochs)]


def _epoch(entry: dict[str, Any], *, where: str) -> Epoch:
    try:
        line = _Line.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise FileProblem(f"'{key}' in {where} is damaged: {first['msg']}.") from error
    dice = {name: value for name, value in (line.dice or {}).items() if value is not None}
    scores = {
        name: {label: value for label, value in values.items() if value is not None}
        for name, values in (line.scores or {}).items()
    }
    return Epoch(line.epoch, line.loss, line.mean_dice, dice, scores)


def _draw_dice(axes: Axes, epochs: list[Epoch]) -> None:
    plain_axes(axes)
    axes.set_ylim(0, 1)
    axes.set_ylabel("Dice, validation scans", color=INK)
    scored = [e for e in epochs if e.mean_dice is not None]
    if not scored:
        axes.text(0.5, 0.5, "not validated yet", color=GREY, ha="center", transform=axes.transAxes)
        return
    labels = list(dict.fromkeys(name for e in scored for name in e.dice))
    for index, name in enumerate(labels if len(labels) > 1 else []):
        points = [(e.epoch, e.dice[name]) for e in scored if name in e.dice]
        colour = tuple(v / 255 for v in PALETTE[index % len(PALETTE)])
        axes.plot(
            *_columns(points),
            color=colour,
            linewidth=1.2,
            marker=_marker(points),
            label=short_name(name),
        )
    mean = [(e.epoch, e.mean_dice) for e in scored if e.mean_dice is not None]
    name = labels[0] if len(labels) == 1 else "mean"
    axes.plot(
        *_columns(mean), color=INK, linewidth=2.2, marker=_marker(mean), label=short_name(name)
    )
    best = max(mean, key=lambda point: point[1])
    axes.plot([best[0]], [best[1]], "o", color=INK, markersize=6)
    axes.set_title(
        f"best mean Dice {best[1]:.3f} at epoch {best[0]}", loc="left", fontsize=11, color=INK
    )
    columns = 1 if len(labels) < 8 else 2
    axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK, ncols=columns)


def _draw_psnr(axes: Axes, epochs: list[Epoch]) -> None:
    plain_axes(axes)
    axes.set_ylabel("PSNR in dB, validation scans", color=INK)
    scores = [(e.epoch, e.scores.get("psnr") or {}) for e in epochs]
    labels = list(dict.fromkeys(name for _, values in scores for name in values))
    for index, name in enumerate(labels):
        points = [(epoch, values[name]) for epoch, values in scores if name in values]
        colour = tuple(v / 255 for v in PALETTE[index % len(PALETTE)]) if len(labels) > 1 else INK
        axes.plot(
            *_columns(points),
            color=colour,
            linewidth=1.6,
            marker=_marker(points),
            label=short_name(name),
        )
    if labels:
        axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)


def _draw_loss(axes: Axes, epochs: list[Epoch]) -> None:
    plain_axes(axes)
    axes.set_ylabel("loss, training", color=INK)
    points = [(e.epoch, e.loss) for e in epochs if e.loss is not None]
    axes.plot(*_columns(points), color=INK, linewidth=1.6, marker=_marker(points))


def _columns(points: Iterable[tuple[int, float]]) -> tuple[list[int], list[float]]:
    pairs = list(points)
    return [x for x, _ in pairs], [y for _, y in pairs]


def _marker(points: list[Any]) -> str:
    """A marker on each point while there are few: a single point would draw no line."""
    return "." if len(points) < 30 else ""
