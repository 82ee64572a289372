"""Reports in Chromium: tables sort, by keys too, nothing leaves the file, and it fits a phone and a sheet of paper."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ctseg.cli.app import app
from ctseg.metrics.bootstrap import BootstrapSample
from ctseg.metrics.compare import compare
from ctseg.report.html.case_slices import CaseSlices
from ctseg.report.html.evaluation import Comparison, write_evaluation
from tests.report.html.reports import HOSTILE, report
from tests.report.viewer.browser import Opened, chromium, find_chromium, opened

pytest.importorskip("playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium (apt-get install chromium)"),
]
PHONE = {"has_touch": True, "is_mobile": True, "color_scheme": "dark"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of twenty cases with hostile names."""
    one, two = report(20), report(20, worse=0.05)
    quick = BootstrapSample(resamples=200)
    path = tmp_path_factory.mktemp("pages") / "report.html"
    comparison = Comparison(two, "other", compare(one, two, quick))
    write_evaluation(one, path, HOSTILE, CaseSlices(), resampling=quick, comparison=comparison)
    return path


def column(shown: Opened, table: Any, number: int) -> list[str]:
    return [str(t) for t in table.locator(f"tbody tr > :nth-child({number})").all_inner_texts()]


def check_page(shown: Opened) -> None:
    """What holds of every report: it asks for nothing, is silent, fits, and all its pictures are drawn."""
    wide, view = shown.page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide <= view, "nothing to scroll sideways"
    broken = shown.page.evaluate("() => [...document.images].filter((i) => !i.naturalWidth).length")
    assert broken == 0
    assert not shown.said and len(shown.asked) == 1, (shown.said, shown.asked)


def test_tables_sort_by_pointer_and_by_keys(browser: Any, html: Path) -> None:
    with opened(browser, html, ready="footer") as shown:
        table = shown.page.locator("section", has_text="All cases").locator("table").last
        before = column(shown, table, 3)
        table.locator("thead button", has_text="Dice").first.click()
        rising = column(shown, table, 3)
        numbers = [float(t) for t in rising if t != "-"]
        assert rising != before and numbers == sorted(numbers)
        assert rising[-1] == "-" and rising.count("-") == 5, "cells without a value come last"
        head = table.locator("thead th").nth(2)
        assert head.get_attribute("aria-sort") == "ascending"
        head.locator("button").focus()
        shown.press("Enter")
        falling = column(shown, table, 3)
        assert head.get_attribute("aria-sort") == "descending"
        assert [float(t) for t in falling if t != "-"] == numbers[::-1] and falling[-1] == "-"
        table.locator("thead button", has_text="case").click()
        names = column(shown, table, 1)
        assert names[:4] == [HOSTILE, HOSTILE, "case <1>", "case <1>"]
        assert names[-1] == "case <19>", "numbers in names count as numbers"
        assert head.get_attribute("aria-sort") is None
        check_page(shown)


def test_the_mean_stays_below(browser: Any, html: Path) -> None:
    with opened(browser, html, ready="footer") as shown:
        table = shown.page.locator("table:has(tfoot)").first
        table.locator("thead button").nth(1).click()
        assert table.locator("tr").last.locator("th").inner_text() == "mean"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_paper_is_white(
    browser: Any, html: Path, scheme: str
) -> None:
    with opened(
        browser, html, (390, 844), ready="footer", **PHONE | {"color_scheme": scheme}
    ) as shown:
        check_page(shown)
        with Image.open(io.BytesIO(shown.page.screenshot())) as picture:
            corner = np.asarray(picture.convert("RGB"))[2, 2]
        assert corner.max() < 40 if scheme == "dark" else corner.min() > 240
        shown.page.emulate_media(media="print")
        back = shown.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert back == "rgb(255, 255, 255)"
        assert shown.page.locator("nav").is_hidden()


def test_printing_opens_what_is_folded(browser: Any, mini_run: Path) -> None:
    with opened(browser, mini_run / "report.html", ready="footer") as shown:
        check_page(shown)
        folded = shown.page.locator("details")
        assert folded.count() and not folded.first.evaluate("(one) => one.open")
        shown.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        assert folded.first.evaluate("(one) => one.open")
        shown.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
        assert not folded.first.evaluate("(one) => one.open")
        assert shown.page.locator("h2").all_inner_texts()[:2] == ["Run", "Curves"]
        assert len(shown.page.pdf()) > 10_000


@pytest.mark.real_data
def test_a_published_model_on_real_scans(browser: Any, real_data: Path, tmp_path: Path) -> None:
    data = real_data / "Dataset004_Hippocampus"
    cases = [path.name.split(".")[0] for path in sorted((data / "labelsTr").glob("*.nii.gz"))[:3]]
    scans = tmp_path / "scans"
    scans.mkdir()
    for case in cases:
        (scans / f"{case}_0000.nii.gz").symlink_to(data / "imagesTr" / f"{case}_0000.nii.gz")
    runner, html = CliRunner(), tmp_path / "report.html"
    made = tmp_path / "made"
    predicted = runner.invoke(
        app, ["predict", str(scans), "-m", "unet3d.hippocampus_v1", "-o", str(made)]
    )
    assert predicted.exit_code == 0, predicted.output
    command = [
        "evaluate",
        str(made),
        str(data),
        "--cases",
        ",".join(cases),
        "--json",
        "-o",
        str(html),
    ]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    mean = json.loads(result.stdout)["mean_dice"]
    assert mean > 0.8
    with opened(browser, html, ready="footer") as shown:
        check_page(shown)
        assert f"{mean:.4f}" in shown.text("tfoot")
        pictures = shown.page.locator(".tiles img")
        assert pictures.count() == 9
        assert shown.page.locator(".scan h3").all_inner_texts()[0] in cases
