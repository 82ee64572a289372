"""Drives Chromium through a page from disk and records all that goes wrong."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)  # fmt: skip
PATIENCE_MS = 300_000
"""A page is drawn by the processor here, perhaps beside other tests."""


def find_chromium() -> str | None:
    """The program of an installed Chromium."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@dataclass
class Opened:
    """A page that is ready.

    Attributes:
        page: Playwright's.
        said: messages of the console and errors.
        asked: addresses of requests, other than those to data inside the page.
    """

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def picture(self) -> np.ndarray:
        """The pixels of the canvas, [rows, columns, 3]."""
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => { nv.drawScene(); done(); }))"
        )
        with Image.open(io.BytesIO(self.page.locator("canvas").screenshot())) as picture:
            return np.asarray(picture.convert("RGB")).astype(int)

    def changed(self, act: Callable[[], Any]) -> int:
        """How many pixels of the canvas an action changes visibly."""
        before = self.picture()
        act()
        return int((np.abs(self.picture() - before).max(axis=2) > 8).sum())

    def until(self, holds: Callable[[], bool], tries: int = 100) -> bool:
        """Whether something holds soon; the page's policy forbids Playwright's own way of waiting."""
        for _ in range(tries):
            if holds():
                return True
            self.page.wait_for_timeout(100)
        return False

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def text(self, place: str = "#location") -> str:
        return str(self.page.inner_text(place))


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Any,
    html: Path,
    size: tuple[int, int] = (1000, 700),
    ready: str = "html[data-ready=yes]",
    **options: Any,
) -> Iterator[Opened]:
    """Open a page and wait until it is drawn, which an element shows."""
    width, height = size
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    found = Opened(page)
    page.on("console", lambda message: found.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found.said.append(str(error)))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("data:", "blob:")) else found.asked.append(r.url),
    )
    page.set_default_timeout(PATIENCE_MS)
    page.goto(html.absolute().as_uri())
    page.wait_for_selector(ready, state="attached")
    yield found
    page.close()
