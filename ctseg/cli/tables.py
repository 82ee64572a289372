"""Tables as lines of text that fit a terminal: names and numbers stay whole, prose breaks between words.

A table that is too wide even so is split into parts side by side, each with the key columns in front.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

GAP = 2
"""Spaces between columns."""
LEAST_PROSE = 12
"""A column of prose is no narrower where it has to break."""


@dataclass(frozen=True)
class Line:
    """One line of a drawn table; headers stand out where the terminal can show it."""

    text: str
    header: bool = False


@dataclass(frozen=True)
class Column:
    """A column with its cells as text.

    Attributes:
        right: whether cells are set to the right, as numbers are.
        prose: whether cells may break between words.
    """

    title: str
    cells: list[str]
    right: bool
    prose: bool

    @property
    def wanted(self) -> int:
        """Characters that hold everything on one line."""
        return max(map(_width, (self.title, *self.cells)))

    @property
    def least(self) -> int:
        """Characters that split no word of a title or of prose, and nothing else at all."""
        words = max((_width(word) for word in self.title.split()), default=0)
        if not self.prose:
            return max(words, *map(_width, self.cells), 0)
        inside = [_width(word) for cell in self.cells for word in cell.split()]
        return min(max(words, *inside, LEAST_PROSE), self.wanted)


def columns_of(
    titles: Sequence[str], rows: Iterable[Sequence[object]], prose: Collection[str]
) -> list[Column]:
    """The columns of a grid; numbers go to the right, floats have three decimals, None is a dash."""
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
    """One line a row, however long: what another program reads."""
    return _drawn(columns, [column.wanted for column in columns])


def fitted(columns: Sequence[Column], width: int, keys: int) -> list[Line]:
    """Lines of at most `width` characters where no name is longer than that.

    Args:
        keys: so many first columns say what a row is about; each part of a table that is split repeats them.
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
    """As few parts as the width allows, and these about as wide as each other."""
    parts = _parts(columns, width, keys)
    for narrower in range(width - 1, 0, -1):
        tried = _parts(columns, narrower, keys)
        if len(tried) > len(parts) or max(map(_least, tried)) > narrower:
            break
        parts = tried
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
    """The least that each column takes, and of what is left over so much to each that it has all it wants."""
    widths = [column.least for column in columns]
    left = width - sum(widths) - GAP * (len(columns) - 1)
    # titles and short texts first: prose breaks all the same
    for i in sorted(range(len(columns)), key=lambda i: columns[i].wanted):
        more = max(min(left, columns[i].wanted - widths[i]), 0)
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
    """The lines of one row, of which a cell may take several."""
    lines = []
    for number in range(max(map(len, cells))):
        parts = []
        for column, texts, size in zip(columns, cells, widths, strict=True):
            text = texts[number] if number < len(texts) else ""
            space = " " * (size - _width(text))
            parts.append(space + text if column.right else text + space)
        lines.append((" " * GAP).join(parts).rstrip())
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
    """The text without codes that steer a terminal; names of files and cards of strangers may hold some."""
    return text.translate(_CONTROLS)
