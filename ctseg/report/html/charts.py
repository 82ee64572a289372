"""Charts as inline SVG: curves, box plots, and the agreement of two measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctseg.markup import Markup, element, markup
from ctseg.metrics.summary import cases_text

WIDTH, HEIGHT = 460.0, 250.0
FEW_POINTS = 300
"""Up to so many points of a chart have a name each, shown where the pointer rests."""
_RIGHT, _TOP, _BOTTOM = 14.0, 12.0, 38.0
_LEFT = 52.0
"""Place of the numbers of a vertical axis."""
_MARGIN = 0.04
"""Share of a range that is left free on either side of the points."""
_MARKED = 30
"""Curves of fewer points mark each of them: a single one would draw no line."""
_ROW = 40.0
_LONGEST = 48


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: in the legend.
        points: x and y, in the order of x.
        colour: of CSS; None is that of text, with a thicker line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: str | None = None


@dataclass(frozen=True)
class Named:
    """A value and what it belongs to, such as a case."""

    name: str
    value: float


@dataclass(frozen=True)
class Agreement:
    """How two measurements agree (Bland and Altman, Lancet 1986).

    Attributes:
        bias: mean difference.
        limits: mean difference less and plus 1.96 standard deviations; None with fewer than two pairs.
    """

    bias: float
    limits: tuple[float, float] | None


def agreement(differences: Sequence[float]) -> Agreement | None:
    """Bias and limits of agreement of differences; None without any."""
    if not differences:
        return None
    bias = float(np.mean(differences))
    if len(differences) < 2:
        return Agreement(bias, None)
    spread = 1.96 * float(np.std(differences, ddof=1))
    return Agreement(bias, (bias - spread, bias + spread))


@dataclass(frozen=True)
class Box:
    """A box plot's numbers (Tukey 1977): quartiles, and whiskers to the last values within 1.5 quartile ranges."""

    low: float
    quartiles: tuple[float, float, float]
    high: float


def box_of(values: Sequence[float]) -> Box:
    """The numbers of a box plot; quartiles between two values are interpolated linearly."""
    first, middle, third = (float(q) for q in np.percentile(values, (25, 50, 75)))
    reach = 1.5 * (third - first)
    inside = [v for v in values if first - reach <= v <= third + reach]
    return Box(min(first, *inside), (first, middle, third), max(third, *inside))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high: 1, 2 or 5 times a power of ten apart."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


class _Axes:
    """Maps values to places in a picture, and draws ticks."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], height: float, left: float = _LEFT
    ) -> None:
        self.x_range, self.y_range, self.height = _spread(x), _spread(y), height
        self.left = left

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (WIDTH - self.left - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)

    def across(self, text: str) -> Markup:
        """The horizontal axis: lines, numbers, and what is measured."""
        parts = []
        bottom = self.height - _BOTTOM
        marks = ticks(*self.x_range)
        for value, shown in zip(marks, _numbers(marks), strict=True):
            x = self.x(value)
            parts += [_line((x, _TOP), (x, bottom), "rule"), _text(shown, x, bottom + 15, "middle")]
        return markup(*parts, _text(text, (self.left + WIDTH - _RIGHT) / 2, bottom + 31, "middle"))

    def upwards(self) -> Markup:
        """The vertical axis: lines and numbers."""
        marks = ticks(*self.y_range, most=5)
        parts = []
        for value, shown in zip(marks, _numbers(marks), strict=True):
            y = self.y(value)
            parts += [
                _line((_LEFT, y), (WIDTH - _RIGHT, y), "rule"),
                _text(shown, _LEFT - 6, y + 4, "end"),
            ]
        return markup(*parts)

    def dots(self, points: Sequence[tuple[float, float, str]]) -> Markup:
        """A dot for each point; each tells its name if there are few."""
        if len(points) <= FEW_POINTS:
            return markup(*(_dot(name, self.x(x), self.y(y)) for x, y, name in points))
        path = "".join(f"M{_at(self.x(x))} {_at(self.y(y))}h0" for x, y, _ in points)
        return element("path", d=path, class_="dots")


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    across: str,
    y_range: tuple[float, float] | None = None,
    names: Sequence[Series] = (),
) -> Markup:
    """Curves over one axis, with a legend below.

    Args:
        title: what the curves show.
        across: what x is.
        y_range: least range of y; by default that of the points.
        names: the curves in the legend; without any there is none.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return markup()
    y_all = [y for _, y in points] + list(y_range or ())
    axes = _Axes(
        (min(0.0, *(x for x, _ in points)), max(x for x, _ in points)),
        _around(y_all) if y_range is None else (min(y_all), max(y_all)),
        HEIGHT,
    )
    parts: list[Markup] = [axes.upwards(), axes.across(across)]
    for one in series:
        colour = one.colour or "var(--ink)"
        where = [(axes.x(x), axes.y(y)) for x, y in one.points]
        path = "M" + "L".join(f"{_at(x)} {_at(y)}" for x, y in where)
        width = "1.4" if one.colour else "2.2"
        if len(where) > 1:
            parts.append(
                element("path", d=path, fill="none", stroke=colour, stroke_width=width, stroke_linejoin="round")
            )  # fmt: skip
        if len(where) < _MARKED:
            parts += [
                element("circle", cx=_at(x), cy=_at(y), r="2.6", fill=colour) for x, y in where
            ]
    legend_of = legend((one.name, one.colour or "var(--ink)") for one in names) if names else None
    return _figure(title, HEIGHT, parts, legend_of)


def box_plot(
    title: str,
    groups: Mapping[str, Sequence[Named]],
    *,
    across: str,
    x_range: tuple[float, float] | None = None,
    zero: bool = False,
) -> Markup:
    """Boxes one below the other, each with its values as dots.

    Args:
        title: what is shown.
        groups: values of each box by its name; boxes without values are left out.
        across: what the values are.
        x_range: range of the axis, if it is not that of the values.
        zero: whether to mark 0.
    """
    filled = [(name, values) for name, values in groups.items() if values]
    if not filled:
        return markup()
    numbers = [v.value for _, values in filled for v in values] + [0.0] * zero
    height = _TOP + _ROW * len(filled) + _BOTTOM
    axes = _Axes(x_range or _around(numbers), (0.0, 1.0), height, left=_RIGHT)
    parts: list[Markup] = [axes.across(across)]
    if zero:
        parts.append(_line((axes.x(0), _TOP), (axes.x(0), height - _BOTTOM), "ink"))
    for number, (name, values) in enumerate(filled):
        top = _TOP + _ROW * number
        middle = top + 27
        box = box_of([v.value for v in values])
        first, median, third = (axes.x(q) for q in box.quartiles)
        parts += [
            _text(_short(name), axes.left, top + 13, "start", ""),
            _line((axes.x(box.low), middle), (first, middle), "ink"),
            _line((third, middle), (axes.x(box.high), middle), "ink"),
            element(
                "rect", x=_at(first), y=_at(middle - 8), width=_at(max(third - first, 1)), height="16",
                class_="box",
            ),
            _dots_in_row(axes, values, middle),
            _line((median, middle - 8), (median, middle + 8), "ink", "2.4"),
        ]  # fmt: skip
    return _figure(title, height, parts, None)


def bland_altman(title: str, pairs: Sequence[tuple[str, float, float]], *, unit: str) -> Markup:
    """The difference of two measurements of each case over their mean, with bias and limits of agreement.

    Args:
        title: what is measured.
        pairs: name, measurement and reference of each case.
        unit: of both.
    """
    points = [((one + two) / 2, one - two, name) for name, one, two in pairs]
    found = agreement([difference for _, difference, _ in points])
    if found is None:
        return markup()
    lines = [("bias", found.bias)]
    if found.limits is not None:
        lines += [("−1.96 SD", found.limits[0]), ("+1.96 SD", found.limits[1])]
    y_all = [0.0, *(y for _, y, _ in points), *(y for _, y in lines)]
    axes = _Axes(_around([x for x, _, _ in points]), _around(y_all), HEIGHT)
    parts = [axes.upwards(), axes.across(f"mean of predicted and reference, {unit}")]
    for name, value in lines:
        y = axes.y(value)
        parts.append(
            _line((_LEFT, y), (WIDTH - _RIGHT, y), "ink", "1.2", None if name == "bias" else "5 4")
        )
        parts.append(_text(name, WIDTH - _RIGHT, y - 4, "end"))
    parts.append(axes.dots(points))
    told = f"Mean difference {_signed(found.bias)} {unit}"
    if found.limits is not None:
        told += f", 95 % limits of agreement {_signed(found.limits[0])} to {_signed(found.limits[1])} {unit}"
    return _figure(title, HEIGHT, parts, f"{told}, {cases_text(len(points))}.")


def legend(names: Iterable[tuple[str, str]]) -> Markup:
    """A list of names with their colours of CSS."""
    return element(
        "ul",
        *(
            element("li", element("span", class_="swatch", style=f"background: {colour}"), name)
            for name, colour in names
        ),
        class_="legend",
    )


def _dots_in_row(axes: _Axes, values: Sequence[Named], y: float) -> Markup:
    if len(values) > FEW_POINTS:  # a box says more than a bar of dots
        box = box_of([v.value for v in values])
        values = [v for v in values if not box.low <= v.value <= box.high]
    return markup(*(_dot(f"{v.name}: {v.value:.4g}", axes.x(v.value), y) for v in values))


def _dot(name: str, x: float, y: float) -> Markup:
    return element("circle", element("title", name), cx=_at(x), cy=_at(y), r="2.8", class_="dot")


def _figure(title: str, height: float, parts: Sequence[Markup], below: object) -> Markup:
    drawing = element(
        "svg", element("title", title), *parts, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img",
    )  # fmt: skip
    return element(
        "figure", element("h3", title), drawing, element("figcaption", below) if below else None
    )


def _line(
    start: tuple[float, float],
    end: tuple[float, float],
    kind: str,
    width: str = "1",
    dashes: str | None = None,
) -> Markup:
    (x1, y1), (x2, y2) = start, end
    return element(
        "line", x1=_at(x1), y1=_at(y1), x2=_at(x2), y2=_at(y2),
        class_=kind, stroke_width=width, stroke_dasharray=dashes,
    )  # fmt: skip


def _text(text: str, x: float, y: float, anchor: str, kind: str = "axis") -> Markup:
    return element("text", text, x=_at(x), y=_at(y), text_anchor=anchor, class_=kind or None)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A range in which no value lies at an end."""
    low, high = min(values), max(values)
    return low - _MARGIN * (high - low), high + _MARGIN * (high - low)


def _spread(ends: tuple[float, float]) -> tuple[float, float]:
    """A range that is not empty."""
    low, high = ends
    if high > low:
        return low, high
    apart = abs(low) * 0.05 or 0.5
    return low - apart, high + apart


def _numbers(marks: Sequence[float]) -> list[str]:
    """Numbers beside an axis, all with the decimals that tell them apart."""
    if len(marks) < 2:
        return [f"{mark:.4g}" for mark in marks]
    step = marks[1] - marks[0]
    largest = max(map(abs, marks))
    if largest >= 1e6 or step < 1e-4:
        return [f"{mark:.3g}" for mark in marks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{mark:.{decimals}f}".replace("-", "−") for mark in marks]


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
