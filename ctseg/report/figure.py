"""Figures without a display, the common style of axes, and atomic writing of PNG files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctseg.files import whole_file

INK = "#1f2933"
GREY = "#7b8794"
GRID = "#e4e7eb"
_LONGEST_NAME = 60


def new_figure(width: float, height: float, *, background: str = "white") -> Figure:
    """A figure of a size in inches, without a window or global state."""
    figure = Figure(figsize=(width, height), facecolor=background)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, png: Path, *, dpi: int = 120) -> None:
    """Write the figure without matplotlib's version in it, so that equal pictures are equal files.

    Raises:
        FileProblem: the folder cannot be written to, or the disk is full.
    """
    with whole_file(png) as temporary:
        figure.savefig(
            temporary,
            format="png",
            dpi=dpi,
            metadata={"Software": None},
            pil_kwargs={"optimize": True},
        )


def plain_axes(axes: Axes) -> None:
    """Remove the axis lines and ticks that a chart does not need."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def short_name(name: str) -> str:
    """A label's name as text of a picture: cut, since a long one takes minutes, and without formulas.

    A blank precedes an underscore at the start and stands for no name, since matplotlib leaves both out of legends.
    """
    shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..."
    shown = f" {shown}" if not shown or shown.startswith("_") else shown
    return shown.replace("$", r"\$")
