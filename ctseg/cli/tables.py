"""Lays out tables as lines of text that fit a terminal: names and numbers stay whole, prose breaks between words.

A table that is still too wide is split by columns into several parts, each with the key columns first.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

GAP = 2
"""Spaces between columns."""
LEAST_PROSE = 12
"""Minimum width of a column of prose that has to break."""


@dataclass(frozen=True)
class Line:
    """One line of a table; headers are bold on a terminal."""

    text: str
    header: bool = False


@dataclass(frozen=True)
class Column:
    """A column with its cells as text.

    Attributes:
        right: whether cells are right-aligned, as numbers are.
        prose: whether cells may break between words.
    """

    title: str
    cells: list[str]
    right: bool
    prose: bool

    @property
    def full_width(self) -> int:
        """Characters for the longest cell on one line."""
        return max(map(_width, (self.title, *self.cells)))

    @property
    def least(self) -> int:
        """Minimum width: prose and titles break only between words, other cells not at all."""
        words = max((_width(word) for word in self.title.split()), default=0)
        if not self.prose:
            return max(words, *map(_width, self.cells), 0)
        inside = [_width(word) for cell in self.cells for word in cell.split()]
        return min(max(words, *inside, LEAST_PROSE), self.full_width)


def columns_of(
    titles: Sequence[str], rows: Iterable[Sequence[object]], prose: Collection[str]
) -> list[Column]:
    """The columns of a table; numbers are right-aligned, floats have three decimals, None is a dash."""
    grid = [list(row) for row in rows]
    return [
        Column(
            title,
            [_cell(row[i]) for row in grid],
            right=any(_is_number(row[i]) for row in grid)
            and all(row[i] is None or _is_number(row[i]) for row in grid),
            prose=title in prose,
        )
        for i, title in enumerate(titles)
    ]


def plain(columns: Sequence[Column]) -> list[Line]:
    """One line for each row, however long, for other programs to read."""
    return _drawn(columns, [column.full_width for column in columns])


def fitted(columns: Sequence[Column], width: int, keys: int) -> list[Line]:
    """Lines of at most `width` characters, unless a single name is longer.

    Args:
        keys: number of leading key columns, which every part of a split table repeats.
    """
    lines: list[Line] = []
    for part in _balanced(columns, width, keys):
        widths = _widths(part, width)
        if lines:
            lines.append(Line(""))
        drawn = _drawn(part, widths)
        heads = sum(line.header for line in drawn)
        rule = "  ".join("─" * size for size in widths)
        lines += [*drawn[:heads], Line(rule), *drawn[heads:]]
    return lines


def _balanced(columns: Sequence[Column], width: int, keys: int) -> list[list[Column]]:
    """Split the columns into as few parts as the width allows, of similar widths."""
    parts = _parts(columns, width, keys)
    for narrower in range(width - 1, 0, -1):
        candidate = _parts(columns, narrower, keys)
        if len(candidate) > len(parts) or max(map(_least, candidate)) > narrower:
            break
        parts = candidate
    return parts


def _least(columns: Sequence[Column]) -> int:
    return sum(column.least for column in columns) + GAP * (len(columns) - 1)


def _parts(columns: Sequence[Column], width: int, keys: int) -> list[list[Column]]:
    head, parts = list(columns[:keys]), [list(columns[:keys])]
    for column in columns[keys:]:
        part = parts[-1]
        full = _least([*part, column]) > width
        if full and len(part) > keys:
            parts.append([*head, column])
        else:
            part.append(column)
    return parts


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """The width of each column: its minimum, then the remaining space for the columns with the shortest texts first."""
    widths = [column.least for column in columns]
    left = width - sum(widths) - GAP * (len(columns) - 1)
    for i in sorted(range(len(columns)), key=lambda i: columns[i].full_width):
        more = max(min(left, columns[i].full_width - widths[i]), 0)
        widths[i] += more
        left -= more
    return widths


def _drawn(columns: Sequence[Column], widths: Sequence[int]) -> list[Line]:
    titles = [_broken(c.title, size) for c, size in zip(columns, widths, strict=True)]
    lines = [Line(text, header=True) for text in _row(columns, titles, widths)]
    for cells in zip(*(column.cells for column in columns), strict=True):
        broken = [
            _broken(cell, size) if column.prose else [cell]
            for column, cell, size in zip(columns, cells, widths, strict=True)
        ]
        lines += [Line(text) for text in _row(columns, broken, widths)]
    return lines


def _row(columns: Sequence[Column], cells: Sequence[list[str]], widths: Sequence[int]) -> list[str]:
    """The lines of one row; a cell may take several lines."""
    lines = []
    for number in range(max(map(len, cells))):
        parts = []
        for column, texts, size in zip(columns, cells, widths, strict=True):
            text = texts[number] if number < len(texts) else ""
            space = " " * (size - _width(text))
            parts.append(space + text if column.right else text + space)
        lines.append((" " * GAP).join(parts).rstrip())
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """Prose in lines that break between words, all but the first one indented; names stay whole."""
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        if _width(line) <= width:
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())] + "  "
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return lines


def _broken(text: str, width: int) -> list[str]:
    if _width(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else harmless(str(value))


_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def harmless(text: str) -> str:
    """Remove terminal control codes from a text, since file names and foreign cards may contain some."""
    return text.translate(_CONTROLS)
