"""Slices of scans with label maps overlaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.report.figure import new_figure, save_png, short_name
from ctseg.report.planes import (
    PLANES,
    Look,
    Plane,
    Slice,
    Window,
    best_point,
    canonical,
    canonical_spacing_zyx,
    cut,
    first_with_foreground,
    on_grid,
    window_of,
)
from ctseg.specs import Task
from ctseg.task import colour_of, masks
from ctseg.volume.volume import Volume

Layer = Volume | NDArray[Any]
BLACK, WHITE = "#0b0e11", "#f2f4f6"
TOP_INCHES, SIDE_INCHES, LEGEND_INCHES, GAP_INCHES = 0.34, 0.34, 0.42, 0.05


@dataclass(frozen=True)
class Panel:
    """One row of a montage.

    Attributes:
        title: text to the left of the row.
        volume: the scan.
        layers: label maps of label values by name, e.g. `reference` and `prediction`.
    """

    title: str
    volume: Volume
    layers: Mapping[str, Layer]


@dataclass(frozen=True)
class _Cell:
    """One picture: a slice of the scan and, if there is one, the same slice of a label map."""

    image: Slice
    label: Slice | None
    window: Window
    letters: bool
    note: str = ""


@dataclass(frozen=True)
class _Table:
    """The rows of pictures, what is written beside and above them, and the title of all."""

    rows: list[list[_Cell]]
    row_titles: list[str]
    column_titles: list[str]
    title: str


DEFAULT_LOOK = Look()


def draw_overlay(
    volume: Volume,
    layers: Mapping[str, Layer],
    task: Task,
    png: Path,
    *,
    title: str = "",
    look: Look = DEFAULT_LOOK,
) -> None:
    """Draw label maps over three planes of a scan, one row per label map.

    The planes pass through the slices that show the most of every label of the first map, in the radiological
    convention (the patient's right on the left of the picture), with the aspect ratio of the spacing.

    Args:
        volume: the scan, [Z, Y, X] or [C, Z, Y, X].
        layers: label maps of label values on the scan's grid by name, e.g. `reference` and `prediction`.
        task: gives the labels their names and colours.
        png: the picture to write.

    Raises:
        GeometryMismatch: a label map lies on another grid than the scan.
        BadInput: the channel does not exist, or an array has another shape than the scan.
        FileProblem: the picture cannot be written.
    """
    image, arrays, shown = _prepare(volume, layers, look)
    spacing = canonical_spacing_zyx(volume.geometry)
    first = first_with_foreground(task, arrays.values())
    point = _middle(image) if first is None else best_point(task, first)
    places = dict(zip(PLANES, point, strict=True))
    letters = volume.geometry.unit == "mm"
    names: list[str | None] = list(arrays) or [None]
    rows = []
    for name in names:
        row = []
        for plane in PLANES:
            label = None if name is None else cut(arrays[name], spacing, plane, places[plane])
            picture = cut(image, spacing, plane, places[plane])
            row.append(_Cell(picture, label, shown, letters))
        rows.append(row)
    table = _Table(rows, [n or "" for n in names], list(PLANES), title)
    _draw(table, task, png, fill=look.fill)


def draw_montage(
    panels: Sequence[Panel],
    task: Task,
    png: Path,
    *,
    plane: Plane = "axial",
    title: str = "",
    look: Look = DEFAULT_LOOK,
) -> None:
    """Draw several cases in rows, in one plane: the scan without labels, then each of its label maps.

    Args:
        panels: at least one; columns have the names of the first one's layers, which every panel must have.
        plane: plane to show, through the slice that shows the most of every label.

    Raises:
        As `draw_overlay`.
    """
    if not panels:
        raise BadInput("A montage needs at least one case.")
    columns = list(panels[0].layers)
    rows = []
    for panel in panels:
        image, arrays, shown = _prepare(panel.volume, panel.layers, look)
        missing = [name for name in columns if name not in arrays]
        if missing:
            raise BadInput(f"'{panel.title}' has no {' and no '.join(missing)} to show.")
        spacing = canonical_spacing_zyx(panel.volume.geometry)
        first = first_with_foreground(task, arrays.values())
        point = _middle(image) if first is None else best_point(task, first)
        index = point[PLANES.index(plane)]
        picture = cut(image, spacing, plane, index)
        letters = panel.volume.geometry.unit == "mm"
        labels = [None, *(cut(arrays[name], spacing, plane, index) for name in columns)]
        rows.append([_Cell(picture, label, shown, letters) for label in labels])
    titles = [panel.title for panel in panels]
    _draw(_Table(rows, titles, ["scan", *columns], title), task, png, fill=look.fill, dpi=90)


def draw_mosaic(
    volume: Volume,
    label_zyx: Layer | None,
    task: Task,
    look: Look,
    slices: tuple[Plane, Sequence[int]],
    png: Path,
) -> None:
    """Draw slices of one plane with a label map over them, in rows, each with its number.

    Args:
        volume: the scan, [Z, Y, X].
        label_zyx: label map of label values on the scan's grid.
        slices: plane, and numbers of slices of the canonical array.

    Raises:
        As `draw_overlay`.
    """
    layers = {} if label_zyx is None else {"label": label_zyx}
    image, arrays, shown = _prepare(volume, layers, look)
    spacing = canonical_spacing_zyx(volume.geometry)
    plane, indices = slices
    cells = []
    for index in indices:
        picture = cut(image, spacing, plane, index)
        label = cut(arrays["label"], spacing, plane, index) if arrays else None
        cells.append(_Cell(picture, label, shown, volume.geometry.unit == "mm", str(index)))
    high, wide = cells[0].image.size_mm
    columns = min(len(cells), max(1, round((1.4 * len(cells) * high / wide) ** 0.5)))
    empty = replace(cells[0].image, pixels=np.full_like(cells[0].image.pixels, shown[0]))
    blank = _Cell(empty, None, shown, letters=False)
    cells += [blank] * (-len(cells) % columns)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    table = _Table(rows, [""] * len(rows), [""] * columns, "")
    _draw(table, task, png, fill=look.fill)


def _prepare(
    volume: Volume, layers: Mapping[str, Layer], look: Look
) -> tuple[NDArray[Any], dict[str, NDArray[Any]], Window]:
    """The scan and its label maps in canonical axes, and the window."""
    channels, channel = volume.czyx, look.channel
    if not 0 <= channel < len(channels):
        raise BadInput(
            f"The scan has {len(channels)} channels, counted from 0, and no channel {channel}."
        )
    image = canonical(channels[channel], volume.geometry)
    return image, on_grid(volume, layers), look.window or window_of(image)


def _middle(image_zyx: NDArray[Any]) -> tuple[int, int, int]:
    z, y, x = image_zyx.shape
    return z // 2, y // 2, x // 2


def _draw(table: _Table, task: Task, png: Path, *, fill: float, dpi: int = 110) -> None:
    """Lay out the cells, with one scale for all pictures of a row, and write the file."""
    rows, title = table.rows, table.title
    widths = [max(row[i].image.size_mm[1] for row in rows) for i in range(len(rows[0]))]
    heights = [max(cell.image.size_mm[0] for cell in row) for row in rows]
    inches_per_mm = min(10.0 / sum(widths), 14.0 / sum(heights))
    top = TOP_INCHES * (2 if title else 1)
    width = sum(widths) * inches_per_mm + SIDE_INCHES + GAP_INCHES * (len(widths) + 1)
    height = sum(heights) * inches_per_mm + top + LEGEND_INCHES + GAP_INCHES * len(heights)
    figure = new_figure(width, height, background=BLACK)
    y = height - top
    for row, row_title, row_mm in zip(rows, table.row_titles, heights, strict=True):
        y -= row_mm * inches_per_mm
        x = SIDE_INCHES
        middle = y + row_mm * inches_per_mm / 2
        _write(figure, SIDE_INCHES / 2, middle, row_title, rotation=90)
        for cell, column_mm in zip(row, widths, strict=True):
            box = (x, y, column_mm * inches_per_mm, row_mm * inches_per_mm)
            _draw_cell(_axes(figure, box, width, height), cell, task, fill)
            x += column_mm * inches_per_mm + GAP_INCHES
        y -= GAP_INCHES
    x = SIDE_INCHES
    for column_title, column_mm in zip(table.column_titles, widths, strict=True):
        middle = x + column_mm * inches_per_mm / 2
        _write(figure, middle, height - top + TOP_INCHES / 2, column_title)
        x += column_mm * inches_per_mm + GAP_INCHES
    if title:
        _write(figure, width / 2, height - TOP_INCHES * 0.6, title, size=12)
    _legend(figure, task, rows, width)
    save_png(figure, png, dpi=dpi)


def _axes(
    figure: Figure, box: tuple[float, float, float, float], width: float, height: float
) -> Axes:
    x, y, w, h = box
    axes = figure.add_axes((x / width, y / height, w / width, h / height))
    axes.set_axis_off()
    return axes


def _write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    rotation: float = 0,
    size: float = 10,
) -> None:
    """Write text centred on a position in inches."""
    width, height = figure.get_size_inches()
    figure.text(
        x / width,
        y / height,
        text,
        color=WHITE,
        fontsize=size,
        ha="center",
        va="center",
        rotation=rotation,
    )


def _draw_cell(axes: Axes, cell: _Cell, task: Task, fill: float) -> None:
    pixels = np.nan_to_num(cell.image.pixels.astype(np.float32), nan=cell.window[0])
    rows, columns = pixels.shape
    high, wide = cell.image.pixel_mm
    extent = (-0.5 * wide, (columns - 0.5) * wide, (rows - 0.5) * high, -0.5 * high)
    low, top = cell.window
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=top, extent=extent, interpolation="bilinear")
    axes.set_aspect("equal")
    if cell.label is not None:
        across, down = np.arange(-1, columns + 1) * wide, np.arange(-1, rows + 1) * high
        for index, mask in enumerate(masks(task, cell.label.pixels).values()):
            if not mask.any():
                continue
            colour = _rgb(task, index)
            padded = np.pad(mask.astype(np.float32), 1)  # closes contours at the border
            if fill > 0:
                axes.contourf(across, down, padded, levels=(0.5, 1.5), colors=[colour], alpha=fill)
            axes.contour(across, down, padded, levels=(0.5,), colors=[colour], linewidths=1.3)
    if cell.note:
        note = axes.text(
            0.02, 0.98, cell.note, color=WHITE, fontsize=8, va="top", transform=axes.transAxes
        )
        note.set_path_effects([withStroke(linewidth=2, foreground=BLACK)])
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    if cell.letters:
        left, right, *_ = cell.image.sides
        for at, text, align in ((0.015, left, "left"), (0.985, right, "right")):
            letter = axes.text(
                at,
                0.5,
                text,
                color=WHITE,
                fontsize=8,
                ha=align,
                va="center",
                transform=axes.transAxes,
            )
            letter.set_path_effects([withStroke(linewidth=2, foreground=BLACK)])


def _rgb(task: Task, index: int) -> tuple[float, float, float]:
    red, green, blue = colour_of(task, index)
    return red / 255, green / 255, blue / 255


def _legend(figure: Figure, task: Task, rows: list[list[_Cell]], width: float) -> None:
    """Draw the names of the visible labels, as many as fit on two lines."""
    slices = [cell.label.pixels for row in rows for cell in row if cell.label is not None]
    visible = {
        name for pixels in slices for name, mask in masks(task, pixels).items() if mask.any()
    }
    patches = [
        Patch(color=_rgb(task, index), label=short_name(label.name))
        for index, label in enumerate(task.foreground)
        if label.name in visible or not visible
    ]
    longest = max((len(str(patch.get_label())) for patch in patches), default=1)
    fitting = max(1, int(width / (0.085 * longest + 0.5)))
    figure.legend(
        handles=patches[: 2 * fitting],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=max(1, min(fitting, len(patches))),
        frameon=False,
        fontsize=9,
        labelcolor=WHITE,
        handlelength=1.0,
        handleheight=1.0,
    )
