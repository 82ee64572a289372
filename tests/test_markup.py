"""HTML as text: whatever a name holds, it stays text."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import pytest

from ctseg.markup import Cell, Markup, definitions, element, markup, table

HOSTILE = "<script>alert('1')</script>\" onload=\"x\x00\x1b[31m&amp;"


class Seen(HTMLParser):
    """Elements, attributes and text, as a browser would take them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    made = element(
        "p", HOSTILE, element("b", "bold"), None, title=HOSTILE, data_value=3, hidden=None
    )
    seen = Seen(made)
    harmless = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert seen.tags == ["p", "b"]
    assert seen.text == harmless + "bold"
    assert seen.attributes == [("title", harmless), ("data-value", "3")]
    assert markup("<", Markup("<br>")) == "&lt;<br>"
    assert element("img", src="x", class_="y") == '<img src="x" class="y">'
    assert Markup("<p>x</p>")._repr_html_() == "<p>x</p>"


def test_a_name_that_no_encoding_has_does_not_stop_a_page() -> None:
    assert markup("a\udcffb").encode("utf-8") == "a\ufffdb".encode()


@pytest.mark.parametrize(
    ("cell", "shown", "value"),
    [
        (0.123456789, "0.123", "0.123456789"),
        (Cell("1.2 ml", 0.0012), "1.2 ml", "0.0011999999999999999"),
        (7, "7", "7"),
        (None, "-", None),
        (math.nan, "-", None),
    ],
)
def test_cells_show_rounded_numbers_and_sort_by_exact_ones(
    cell: object, shown: str, value: str | None
) -> None:
    seen = Seen(table(["a", "b"], [["x", cell], ["y", 2.5]], sortable=True))
    assert shown in seen.text
    values = [v for k, v in seen.attributes if k == "data-value"]
    assert values == ([value] if value else []) + ["2.5"]
    assert seen.tags.count("button") == 2


def test_a_foot_stays_out_of_the_rows_that_are_sorted() -> None:
    made = table(["label", "Dice"], [["a", 0.5]], foot=["mean", 0.5], caption="Means")
    body = made.partition("<tbody>")[2].partition("</tbody>")[0]
    assert "mean" not in body and "<tfoot>" in made and "<caption>Means</caption>" in made
    assert Seen(definitions({"<b>": 1})).text == "<b>1"
