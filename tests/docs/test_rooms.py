"""The map of the code: every file and folder that the architecture page and CONTRIBUTING name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "ctseg"
PAGES = ("docs/explanation/architecture.md", "CONTRIBUTING.md")
OUTSIDE = ("docs/", "plugins/", "tests/", "zoo/", "ctseg/", "benchmarks/", "last/", "site/")


def named(page: str) -> set[str]:
    """Modules and folders below `ctseg/` in code of a page; those of the reader's choice (NAME) left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"(?<![\w./])[a-z][a-z_0-9/]*(?:\.py\b|/(?=[\s`]))", text)
    return {name for name in found if not name.startswith(OUTSIDE)}


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_exists(page: str) -> None:
    modules = {path.relative_to(CODE).as_posix() for path in CODE.rglob("*.py")}
    folders = {path.parent.relative_to(CODE).as_posix() for path in CODE.rglob("*.py")}
    names = named(page)
    assert len(names) > 15
    for name in names:
        known = folders if name.endswith("/") else modules
        wanted = name.rstrip("/")
        assert any(k == wanted or k.endswith(f"/{wanted}") for k in known), f"{page} names {name}"


def test_the_table_of_places_is_on_both_pages() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = table.split("[start:where]")[1].split("[end:where]")[0]
    for word in (
        "a metric",
        "an output format",
        "blend",
        "a preprocessing step",
        "a loss",
        "a network",
    ):
        assert word in section
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    assert '--8<-- "CONTRIBUTING.md:where"' in page
