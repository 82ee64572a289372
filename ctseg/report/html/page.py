"""The frame of every report: one file without a request to anywhere, in dark, light and on paper."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from ctseg.markup import Markup, element, markup
from ctseg.version import __version__


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: its heading.
        parts: its content; text is escaped, and nothing at all leaves the section out.
    """

    title: str
    parts: tuple[object, ...]


def page(title: str, subtitle: object, sections: Sequence[Section]) -> str:
    """A whole page with a list of its sections.

    Its policy allows the one script that is in it, by its checksum, and nothing from elsewhere.
    """
    here = files("ctseg.report.html")
    script = Markup((here / "page.js").read_text("utf-8"))
    checksum = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; script-src 'sha256-{checksum}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    shown = [section for section in sections if any(section.parts)]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"ctseg {__version__}"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup((here / "page.css").read_text("utf-8"))),
    )
    links = (
        element("a", section.title, href=f"#part{number}")
        for number, section in enumerate(shown, start=1)
    )
    body = element(
        "body",
        element("header", element("h1", title), element("p", subtitle), element("nav", *links)),
        element(
            "main",
            *(
                element("section", element("h2", one.title), *one.parts, id=f"part{number}")
                for number, one in enumerate(shown, start=1)
            ),
        ),
        element("footer", f"Written by ctseg {__version__}, {_now()}."),
        element("script", script),
    )
    return markup(Markup("<!doctype html>\n"), element("html", head, body, lang="en"), "\n")


def wide(table: Markup, name: str) -> Markup:
    """A table that may be wider than the page, and then scrolls, by keys too."""
    return element("div", table, class_="wide", tabindex="0", role="region", aria_label=name)


def folded(title: str, *parts: object) -> Markup:
    """Parts that are shown on request, and on paper."""
    return element("details", element("summary", title), *parts)


def _now() -> str:
    now = dt.datetime.now(dt.UTC)
    return now.strftime("%Y-%m-%d %H:%M UTC")
