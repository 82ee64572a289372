"""The parts of a run's report that its log tells: where it stands, and its curves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ctseg.config import RunConfig
from ctseg.markup import Markup, definitions, element
from ctseg.report.history import Epoch, History
from ctseg.report.html.charts import Series, line_chart
from ctseg.task import PALETTE

_MOST_POINTS = 400
"""Most points of a curve; of longer ones every second, third, ... is shown."""
_MOST_LABELS = 20
"""Most labels with a curve each."""


def progress_facts(config: RunConfig, history: History, state: Mapping[str, Any]) -> Markup:
    """Where a run stands, and how fast it is.

    Args:
        state: of the resume point; empty without one.
    """
    last = history.epochs[-1]
    steps = state.get("steps")
    told = f"step {last.step} of {steps}" if isinstance(steps, int) else f"step {last.step}"
    if last.step == steps:
        told = f"finished, {steps} steps"
    facts: dict[str, object] = {
        "data": config.data.path,
        "state": told,
        "validations": len(history.epochs),
    }
    if last.seconds is not None:
        facts["time"] = _duration(last.seconds)
    scored = [e for e in history.epochs if e.mean_dice is not None]
    if scored:
        best = max(scored, key=lambda e: e.mean_dice or 0.0)
        facts["best mean Dice"] = f"{best.mean_dice:.4f} at step {best.step}"
    speeds = [y for _, y in _throughput(history.epochs, config.train.batch_size or 1)]
    if speeds:
        facts["throughput"] = f"{statistics.median(speeds):.3g} patches a second"
    known = [e for e in history.epochs if e.validation_seconds is not None]
    if known and last.seconds:
        share = sum(e.validation_seconds or 0.0 for e in known) / last.seconds
        facts["time in validation"] = f"{100 * min(share, 1.0):.0f} %"
    return definitions(facts)


def curves(
    config: RunConfig, history: History, colours: Mapping[str, tuple[int, int, int]]
) -> Markup:
    """Charts of Dice, loss, learning rate and throughput by step."""
    epochs = history.epochs
    charts = [_scores(epochs, colours)]
    loss = [(float(e.step), e.loss) for e in epochs if e.loss is not None]
    fine = [(float(s.step), s.loss) for s in history.steps if s.loss is not None]
    series = [Series("loss", _thinned(fine), "var(--accent)")] if fine else []
    series.append(Series("loss of the epoch", _thinned(loss)))
    named = series if fine else []
    charts.append(line_chart("Loss, training", series, across="step", names=named))
    rates = [(float(e.step), e.lr) for e in epochs if e.lr is not None]
    rates += [(float(s.step), s.lr) for s in history.steps if s.lr is not None]
    rate = Series("rate", _thinned(sorted(rates)))
    charts.append(line_chart("Learning rate", [rate], across="step", y_range=(0.0, 0.0)))
    speed = _throughput(epochs, config.train.batch_size or 1)
    charts.append(
        line_chart(
            "Throughput, patches a second", [Series("speed", _thinned(speed))], across="step",
            y_range=(0.0, 0.0),
        )
    )  # fmt: skip
    return element("div", *(chart for chart in charts if chart), class_="grid")


def _scores(epochs: Sequence[Epoch], colours: Mapping[str, tuple[int, int, int]]) -> Markup:
    """Dice of each label, or the PSNR of each channel of a regression."""
    regression = any(e.scores for e in epochs)
    by_epoch = [(e.step, e.scores.get("psnr", {}) if regression else e.dice) for e in epochs]
    labels = list(dict.fromkeys(label for _, values in by_epoch for label in values))
    series = []
    for number, label in enumerate(labels[:_MOST_LABELS] if len(labels) > 1 else []):
        points = [(float(step), values[label]) for step, values in by_epoch if label in values]
        red, green, blue = colours.get(label, PALETTE[number % len(PALETTE)])
        series.append(Series(label, _thinned(points), f"rgb({red} {green} {blue})"))
    if regression:
        means = [(float(step), statistics.fmean(v.values())) for step, v in by_epoch if v]
    else:
        means = [(float(e.step), e.mean_dice) for e in epochs if e.mean_dice is not None]
    name = labels[0] if len(labels) == 1 else "mean"
    series.append(Series(name, _thinned(means)))
    title = "PSNR in dB, validation" if regression else "Dice, validation"
    y_range = None if regression else (0.0, 1.0)
    return line_chart(title, series, across="step", y_range=y_range, names=series)


def _throughput(epochs: Sequence[Epoch], batch: int) -> list[tuple[float, float]]:
    """Patches trained with a second of each epoch, without the time of validations where the log tells it."""
    points = []
    step, seconds = 0, 0.0
    for epoch in epochs:
        if epoch.seconds is None:
            return []
        spent = epoch.seconds - seconds - (epoch.validation_seconds or 0.0)
        if spent > 0 and epoch.step > step:
            points.append((float(epoch.step), (epoch.step - step) * batch / spent))
        step, seconds = epoch.step, epoch.seconds
    return points


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most some hundred points of a curve, its last one among them."""
    stride = -(-len(points) // _MOST_POINTS) or 1
    return list(reversed(points[::-1][::stride]))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
