"""Plots of Dice and loss by epoch, from the log of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ctseg.report.figure import GREY, INK, new_figure, plain_axes, save_png, short_name
from ctseg.report.history import Epoch, read_epochs
from ctseg.task import PALETTE


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
