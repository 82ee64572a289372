"""Tables fit a terminal of 80 columns; no name and no number is ever split."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ctseg.cli import tables, ui
from ctseg.cli.app import app
from ctseg.metrics.report import CaseResult, LabelResult, Report

NAMES = ["residual_unet3d.sts_tumour_v0", "unet3d.hippocampus_v1"]


def lines_of(titles: list[str], rows: list[list[object]], **how: object) -> list[str]:
    options = {"prose": (), "width": 80, "keys": 1, **how}
    columns = tables.columns_of(titles, rows, options.pop("prose"))  # type: ignore[arg-type]
    return [line.text for line in tables.fitted(columns, **options)]  # type: ignore[arg-type]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 80 columns without colours shows."""
    shown = io.StringIO()
    console = Console(
        file=shown, width=80, force_terminal=True, no_color=True, highlight=False, markup=False
    )
    monkeypatch.setattr(ui, "out", lambda: console)
    return shown


def plain(terminal: io.StringIO) -> list[str]:
    """The lines without the codes of bold headers."""
    return re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()


def test_prose_breaks_between_words_and_names_stay_whole() -> None:
    text = (
        "anterior and posterior parts of the hippocampus, and whatever else there may be beside it"
    )
    lines = lines_of(["name", "labels", "Dice"], [[n, text, 0.5] for n in NAMES], prose=("labels",))
    assert max(map(len, lines)) <= 80
    for name in NAMES:
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    words = " ".join(line[len(NAMES[0]) :].rpartition("0.500")[0] or line[31:] for line in lines)
    assert all(word in words for word in text.split())


def test_what_is_too_wide_goes_below_with_the_keys_in_front() -> None:
    titles = ["case", "label", *(f"surface distance {i}" for i in range(12))]
    rows = [[f"case_{i:03}", "kidney", *(i + j / 7 for j in range(12))] for i in range(3)]
    lines = lines_of(titles, rows, keys=2)
    assert max(map(len, lines)) <= 80
    parts = "\n".join(lines).split("\n\n")
    assert len(parts) == 2
    for i in range(3):
        found = [p for part in parts for p in part.splitlines() if p.startswith(f"case_{i:03}")]
        numbers = [word for line in found for word in line.split()[2:]]
        assert numbers == [f"{i + j / 7:.3f}" for j in range(12)]
        assert all(line.split()[1] == "kidney" for line in found)


def test_a_name_longer_than_the_terminal_stays_whole() -> None:
    path = "/data/" + "x" * 100
    lines = lines_of(["case", "path", "Dice"], [["a", path, 0.25]])
    assert any(path in line for line in lines)
    assert any("0.250" in line for line in lines)


def test_wide_characters_keep_columns_in_line() -> None:
    lines = lines_of(["label", "n"], [["肝臓", 1], ["liver", 22]])
    assert lines[2:] == ["肝臓    1", "liver  22"]


def test_numbers_stand_to_the_right() -> None:
    assert lines_of(["a", "b"], [["x", 1.0], ["yy", None]])[2:] == ["x   1.000", "yy      -"]


def test_the_zoo_fits(terminal: io.StringIO, tmp_path: Path) -> None:
    zoo = Path(__file__).resolve().parents[2] / "zoo"
    link = tmp_path / "zoo"
    link.symlink_to(zoo)
    for words in (["zoo", "list"], ["zoo", "list", "--zoo", str(link)]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    lines = plain(terminal)
    for name in NAMES:
        assert sum(name in line.split() for line in lines) >= 2
    assert all(len(line) <= 80 for line in lines if not line.startswith("Zoo: "))


@pytest.mark.parametrize("metrics", [5, 12])
def test_scores_fit(terminal: io.StringIO, metrics: int) -> None:
    from ctseg.cli.scores import print_report
    from ctseg.metrics import catalogue
    from ctseg.metrics.bootstrap import BootstrapSample

    names = list(catalogue.names())[:metrics]
    label = {name: 12.5 + i for i, name in enumerate(names)}
    cases = tuple(
        CaseResult(f"volume-{i:04}", (LabelResult("left kidney", label, 812.25, 809.5),))
        for i in range(4)
    )
    print_report(Report(cases), resampling=BootstrapSample(resamples=100))
    lines = plain(terminal)
    assert max(map(len, lines)) <= 80
    text = " ".join(line.strip() for line in lines)
    for i in range(metrics):
        assert f"{12.5 + i:.3f}" in text and f"{12.5 + i:.4f} to {12.5 + i:.4f}" in text
    assert "volume-0003  left kidney" in text and "812.250" in text


def test_no_colour_means_no_codes_of_colour(terminal: io.StringIO) -> None:
    ui.table(("name", "Dice"), [("a", 0.5)])
    assert "\x1b[3" not in terminal.getvalue()
    assert "0.500" in terminal.getvalue()
