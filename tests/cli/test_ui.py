"""What commands print: JSON that every reader takes, plain tables when piped, progress on stderr."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ctseg.cli import ui
from ctseg.errors import BadInput


@dataclass
class _Thing:
    path: Path
    values: tuple[float, ...]


def test_json_never_holds_nan(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "nan": float("nan"), "inf": np.float32("inf"), "array": np.array([1.0, np.nan]),
        "thing": _Thing(Path("a/b"), (1.5, float("-inf"))), 3: {"set"}, "int": np.int64(4), "no": False,
    }  # fmt: skip
    ui.print_json(value)
    data = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert data == {
        "nan": None, "inf": None, "array": [1.0, None],
        "thing": {"path": "a/b", "values": [1.5, None]}, "3": ["set"], "int": 4, "no": False,
    }  # fmt: skip


def test_a_piped_table_is_aligned_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    ui.table(("name", "Dice"), [("a [b]", 0.98765), (long, None)], title="Scores")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Scores"
    assert lines[2].split() == ["a", "[b]", "0.988"]
    assert lines[3].split() == [long, "-"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_piped_progress_is_plain_lines_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui, "PLAIN_SECONDS", 0.0)
    with ui.progress("Predicting", total=2) as bar:
        bar.advance(text="case_1")
        bar.advance(text="case_2")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Predicting: 1/2" in captured.err
    assert "case_2" in captured.err
    assert "\x1b" not in captured.err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns without colours, for results and progress."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, no_color=True, highlight=False)
    monkeypatch.setattr(ui, "out", lambda: console)
    monkeypatch.setattr(ui, "err", lambda: console)
    return screen


def test_prose_breaks_between_words_on_a_terminal(terminal: io.StringIO) -> None:
    text = "  " + "some words " * 12 + "--option spacing='0.7 0.7 2.5'\n  second"
    ui.show(text, prose=True)
    ui.show(text)
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines[:-2])) <= 80 and lines[1].startswith("    some words")
    assert " ".join(" ".join(lines[:-3]).split()) == " ".join(text.splitlines()[0].split())
    assert lines[-3] == "  second" and lines[-2] == text.splitlines()[0]
    longer = "x" * 100
    ui.show(longer, prose=True)
    assert terminal.getvalue().splitlines()[-1] == longer


def test_numbers_below_the_bar_replace_those_before(terminal: io.StringIO) -> None:
    with ui.progress("Training", total=4) as bar:
        bar.update(1, 4, "loss 0.5")
        bar.show({"loss": "0.5000", "Dice liver": "0.7100"})
        bar._bar.refresh()
        early = len(terminal.getvalue())
        bar.show({"loss": "0.2500", "Dice liver": "0.8200"})
        bar._bar.refresh()
        late = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()[early:])
        bar.say("step 4 of 4")
    assert "loss 0.2500   Dice liver 0.8200" in late
    assert "0.7100" not in late
    with ui.progress("Training") as bar:
        bar.show({})


def test_progress_keeps_its_numbers_beside_a_long_text(terminal: io.StringIO) -> None:
    with ui.progress("Predicting", total=1200) as bar:
        bar.update(125, text="hippocampus_with_a_long_name_0123, tile 12 of 240")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    frames = [line for line in re.split(r"[\r\n]", plain) if "hippocampus" in line]
    assert frames and all("125/1200" in line and "0:00:0" in line for line in frames)
    assert max(map(len, frames)) <= 80


def test_quick_work_prints_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.progress("Quick", total=1) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""


def test_nothing_is_lost_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    ui.confirm("Remove it?", yes=True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(BadInput, match="no terminal"):
        ui.confirm("Remove it?", yes=False)


def test_the_time_left_is_told_without_the_slow_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, *[100.0] * 2, *[102.0] * 9])
    monkeypatch.setattr(ui.time, "monotonic", lambda: next(clock))
    bar = ui.Progress("Predicting", 10, None, shown=False)
    bar.update(1)  # took 100 s
    assert bar._left() == ""
    bar.update(2)  # took 2 s
    assert bar._left() == "16s"
    bar.update(10)
    assert bar._left() == ""


def test_the_time_left_is_that_of_the_part_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(ui.time, "monotonic", lambda: now[0])
    bar = ui.Progress("Training", None, None, shown=False)

    def after(seconds: float, done: float, total: float) -> str:
        now[0] += seconds
        bar.update(done, total)
        return bar._left()

    assert after(60, 1, 3) == ""  # cases to prepare
    assert after(60, 2, 3) == "1m00s"
    assert after(60, 1, 100) == ""  # steps
    assert after(2, 2, 100) == "3m16s"
    assert after(2, 3, 53) == "1m40s"  # an end that moves
    assert after(9, 1, 5) == ""  # cases to validate
    assert after(9, 2, 5) == "27s"
    assert after(9, 4, 53) == ""  # steps again
    assert after(2, 5, 53) == "1m36s"


def test_progress_of_other_processes_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui, "PLAIN_SECONDS", 0.0)
    with ui.progress("Predicting", total=2, shown=False) as bar:
        bar.advance(text="case_1")
    assert capsys.readouterr().err == ""


def test_what_strangers_wrote_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "good\x1b]0;title\x07\x1b[31m\x9b2J\ttext"
    ui.show(evil)
    ui.say(evil)
    ui.table(("name",), [(evil,)])
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert "good" in text and "text" in text
        assert not {c for c in text if (ord(c) < 32 or 127 <= ord(c) < 160) and c not in "\n\t"}


def test_json_of_a_name_that_is_no_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    name = b"sch\xe4del.nii".decode("utf-8", "surrogateescape")
    ui.print_json({"input": name, "label": "Leber"})
    assert json.loads(capsys.readouterr().out) == {"input": name, "label": "Leber"}


def test_a_zoo_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ui.check_zoo(None)
    ui.check_zoo(tmp_path)
    with pytest.raises(BadInput, match="does not exist"):
        ui.check_zoo(tmp_path / "typo")
