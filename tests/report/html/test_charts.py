"""Charts: their numbers against matplotlib and a published table, and SVG that is well-formed."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import matplotlib.cbook
import numpy as np
import pytest

from ctseg.report.html.charts import (
    FEW_POINTS,
    Named,
    Series,
    agreement,
    bland_altman,
    box_of,
    box_plot,
    legend,
    line_chart,
    ticks,
)

# Peak expiratory flow of 17 people by two meters, l/min: first readings of the table in Bland and Altman, Lancet 1986.
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
HOSTILE = "</svg><script>alert(1)</script>"


def test_limits_of_agreement_are_those_of_the_paper() -> None:
    found = agreement([one - two for one, two in zip(LARGE, MINI, strict=True)])
    assert found is not None and found.limits is not None
    assert round(found.bias, 1) == -2.1  # as printed there
    spread = (found.limits[1] - found.bias) / 1.96
    assert round(spread, 1) == 38.8
    assert agreement([]) is None
    assert agreement([3.0]) is not None and agreement([3.0]).limits is None


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_those_of_matplotlib(seed: int) -> None:
    values = np.random.default_rng(seed).gamma(1.0 + seed, size=4 + 7 * seed).tolist()
    expected = matplotlib.cbook.boxplot_stats(values)[0]
    box = box_of(values)
    assert box.quartiles == pytest.approx((expected["q1"], expected["med"], expected["q3"]))
    assert (box.low, box.high) == pytest.approx((expected["whislo"], expected["whishi"]))


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.3, 12.2) == [0, 5, 10]
    assert ticks(-3, 9) == [-2, 0, 2, 4, 6, 8]
    assert ticks(3e-7, 9e-7, 3) == [4e-7, 6e-7, 8e-7]
    assert ticks(5, 5) == [5]


def drawing(figure: str) -> ET.Element:
    start, end = figure.index("<svg"), figure.rindex("</svg>") + 6
    return ET.fromstring(figure[start:end])


def test_curves_have_a_path_each_and_names_are_text() -> None:
    points = [(float(x), x / 10) for x in range(5)]
    series = [Series(HOSTILE, points, "red"), Series("mean", points[:1])]
    figure = line_chart(HOSTILE, series, across="step", names=series)
    svg = drawing(figure)
    assert len(svg.findall("path")) == 1  # a single point has no line
    assert len(svg.findall("circle")) == 6
    assert svg.findtext("title") == HOSTILE
    assert "<script" not in figure and figure.count("swatch") == 2
    assert line_chart("none", [Series("a", [])], across="step") == ""
    constant = line_chart("constant", [Series("a", [(1.0, 2.0), (2.0, 2.0)])], across="step")
    assert "nan" not in constant


def test_places_grow_with_values() -> None:
    chart = line_chart("a", [Series("a", [(0.0, 0.0), (10.0, 1.0)])], across="x")
    left, right = drawing(chart).findall("circle")
    assert float(left.get("cx", 0)) < float(right.get("cx", 0))
    assert float(left.get("cy", 0)) > float(right.get("cy", 0))  # upwards


def test_a_box_for_each_label_with_its_cases() -> None:
    groups = {HOSTILE: [Named("c1", 0.5), Named("c2", 0.9)], "empty": [], "one": [Named("c3", 0.7)]}
    figure = box_plot("Dice", groups, across="Dice", x_range=(0.0, 1.0))
    svg = drawing(figure)
    assert len(svg.findall("rect")) == 2
    told = [circle.findtext("title") for circle in svg.findall("circle")]
    assert told == ["c1: 0.5", "c2: 0.9", "c3: 0.7"]
    assert HOSTILE in [text.text for text in svg.findall("text")]
    assert box_plot("Dice", {"a": []}, across="Dice") == ""
    many = {"a": [Named(str(i), float(i % 7)) for i in range(FEW_POINTS + 1)]}
    assert not drawing(box_plot("x", many, across="x", zero=True)).findall("circle")  # no outliers


def test_agreement_of_volumes_is_drawn_and_told() -> None:
    pairs = [
        (f"p{i}", float(one), float(two))
        for i, (one, two) in enumerate(zip(LARGE, MINI, strict=True))
    ]
    figure = bland_altman("flow", pairs, unit="l/min")
    svg = drawing(figure)
    assert len(svg.findall("circle")) == 17
    assert "Mean difference −2.12 l/min" in figure and "17 cases" in figure
    lines = {text.text for text in svg.findall("text")}
    assert {"bias", "−1.96 SD", "+1.96 SD"} <= lines
    single = bland_altman("flow", pairs[:1], unit="l/min")
    assert "limits" not in single and "1 cases" not in single
    assert bland_altman("flow", [], unit="ml") == ""
    many = drawing(bland_altman("many", pairs * 20, unit="ml"))
    assert not many.findall("circle") and many.findall("path")[0].get("d", "").count("M") == 340


def test_a_legend_names_colours() -> None:
    assert legend([("<b>", "rgb(1 2 3)")]).count("&lt;b&gt;") == 1
