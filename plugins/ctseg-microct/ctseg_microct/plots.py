"""Plots of the results, one PNG for each topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ctseg.files import whole_file


def draw(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what a summary holds; returns the files."""
    labels, unit = summary["labels"], summary["unit"]
    first = next(iter(labels.values()))
    out = []
    for topic, painter in (
        ("windows", _windows), ("correlation", _correlation), ("thickness", _thickness),
    ):  # fmt: skip
        if topic in first:
            out.append(_save(folder / f"{topic}.png", painter, labels, unit))
    if any((row.get("orientation") or {}).get("pole_figure") for row in labels.values()):
        out.append(_poles(folder / "orientation.png", labels))
    return out


def _save(path: Path, painter: Any, labels: Any, unit: str) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    painter(axes, labels, unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return path


def _windows(axes: Any, labels: Any, unit: str) -> None:
    for name, row in labels.items():
        rows = row["windows"]["rows"]
        edge = [one["edge"] for one in rows]
        mean = np.array([one["mean"] for one in rows])
        spread = np.array([one["deviation"] for one in rows])
        (line,) = axes.plot(edge, mean, marker="o", markersize=3, label=name)
        axes.fill_between(edge, mean - spread, mean + spread, alpha=0.2, color=line.get_color())
    axes.set(xlabel=f"edge of the window ({unit})", ylabel="volume fraction", xscale="log")


def _correlation(axes: Any, labels: Any, unit: str) -> None:
    for name, row in labels.items():
        found = row["correlation"]
        (line,) = axes.plot(found["distance"], found["s2"], label=f"{name} S2")
        axes.plot(found["distance"], found["c2"], "--", color=line.get_color(), label=f"{name} C2")
    axes.set(xlabel=f"distance ({unit})", ylabel="probability", ylim=(0, None))


def _thickness(axes: Any, labels: Any, unit: str) -> None:
    for name, row in labels.items():
        rows = row["thickness"]["distribution"]
        diameter = [one["diameter"] for one in rows]
        axes.step(diameter, [100 * one["share"] for one in rows], where="mid", label=name)
    axes.set(xlabel=f"local thickness ({unit})", ylabel="share of the volume (%)", ylim=(0, None))


def _poles(path: Path, labels: Any) -> Path:
    """Pole figures, seen along z: cells of equal area, 1 for directions of no preference."""
    from matplotlib.figure import Figure

    shown = {
        name: row["orientation"]
        for name, row in labels.items()
        if row["orientation"]["pole_figure"]
    }
    figure = Figure(figsize=(4 * len(shown), 4), layout="constrained")
    for at, (name, found) in enumerate(shown.items()):
        density = np.array(found["pole_figure"]) * np.size(found["pole_figure"])
        axes = figure.add_subplot(1, len(shown), at + 1, projection="polar")
        turn = np.linspace(0, 2 * np.pi, density.shape[1] + 1)
        ring = np.sqrt(np.linspace(0, 1, density.shape[0] + 1))
        mesh = axes.pcolormesh(turn, ring, density, cmap="viridis", vmin=0)
        axes.set(title=name, yticks=[], xticks=[0, np.pi / 2], xticklabels=["x", "y"])
        figure.colorbar(mesh, ax=axes, shrink=0.7, label="times random")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return path
