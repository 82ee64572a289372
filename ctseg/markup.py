"""Builds HTML and SVG as text; all but markup is escaped, since names of cases and labels are foreign."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_VOID = ("img", "meta", "link")


class Markup(str):
    """Text that is HTML already, and is therefore not escaped again."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(self)


@dataclass(frozen=True)
class Cell:
    """A cell of a table that shows another text than the value by which it sorts."""

    shown: object
    value: float | str | None


def markup(*parts: object) -> Markup:
    """Join parts: markup as it is, anything else as escaped text without control characters; None is nothing."""
    return Markup("".join(_escaped(part) for part in parts if part is not None))


def _escaped(part: object) -> str:
    return part if isinstance(part, Markup) else escape(_CONTROLS.sub("\ufffd", str(part)))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element with its children.

    Args:
        attributes: an underscore stands for a hyphen, one at the end is dropped (`class_`); None leaves the attribute
            out, and True gives it without a value.
    """
    given = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-") if name != "viewBox" else name
        given.append(f" {key}" if value is True else f' {key}="{_escaped(str(value))}"')
    head = f"<{tag}{''.join(given)}>"
    return Markup(head if tag in _VOID else f"{head}{markup(*children)}</{tag}>")


def table(
    heads: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    foot: Sequence[object] | None = None,
    caption: object = None,
    sortable: bool = False,
    keys: int = 1,
) -> Markup:
    """A table. Numbers are right-aligned, floats have three decimals, None is a dash, as in the tables of commands.

    Args:
        foot: a last row that stays last.
        sortable: whether the page's script sorts it by the columns that are clicked.
        keys: number of leading columns that are headers of their rows.
    """
    grid = [list(row) for row in (*rows, *([] if foot is None else [foot]))]
    numeric = [
        any(_is_number(row[i]) for row in grid)
        and all(_value(row[i]) is None or _is_number(row[i]) for row in grid)
        for i in range(len(heads))
    ]
    titles = [
        element(
            "th",
            element("button", head, type="button") if sortable and str(head) else head,
            scope="col",
            class_="number" if number else None,
        )
        for head, number in zip(heads, numeric, strict=True)
    ]
    lines = [
        element(
            "tr", *(_cell(cell, number, i < keys) for i, (cell, number) in enumerate(zip(row, numeric, strict=True)))
        )
        for row in grid
    ]  # fmt: skip
    return element(
        "table",
        None if caption is None else element("caption", caption),
        element("thead", element("tr", *titles)),
        element("tbody", *(lines if foot is None else lines[:-1])),
        None if foot is None else element("tfoot", lines[-1]),
        class_="sortable" if sortable else None,
    )


def definitions(entries: Mapping[str, object]) -> Markup:
    """A table of two columns without a header: names and what they stand for."""
    lines = (
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in entries.items()
    )
    return element("table", element("tbody", *lines), class_="facts")


def _cell(cell: object, number: bool, header: bool) -> Markup:
    value = _value(cell)
    shown = cell.shown if isinstance(cell, Cell) else cell
    if shown is None or (isinstance(shown, float) and math.isnan(shown)):
        shown = "-"
    elif isinstance(shown, float):
        shown = f"{shown:.3f}"
    sort_key = None
    if number and value is not None:
        sort_key = f"{value:.17g}"
    elif isinstance(cell, Cell) and value is not None:
        sort_key = str(value)
    return element(
        "th" if header else "td",
        shown,
        scope="row" if header else None,
        class_="number" if number else None,
        data_value=sort_key,
    )


def _value(cell: object) -> object:
    value = cell.value if isinstance(cell, Cell) else cell
    return None if isinstance(value, float) and math.isnan(value) else value


def _is_number(cell: object) -> bool:
    value = _value(cell)
    return isinstance(value, int | float) and not isinstance(value, bool)
