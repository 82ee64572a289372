"""The curves of a run: what is read from the log, and that a picture is written whole or not at all."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from ctseg.errors import FileProblem
from ctseg.report.curves import draw_curves
from ctseg.report.history import read_epochs


def epoch_line(epoch: int, **fields: object) -> str:
    entry = {
        "kind": "epoch",
        "epoch": epoch,
        "step": epoch * 10,
        "loss": 1 / (epoch + 1),
        "lr": 0.01,
    }
    entry |= {"mean_dice": 0.1 * epoch, "dice": {"liver": 0.1 * epoch}, "seconds": 1.0}
    return json.dumps(entry | fields)


def write_log(folder: Path, lines: list[str]) -> Path:
    log = folder / "log.jsonl"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return log


def test_only_epochs_count_and_a_repeated_one_counts_last(tmp_path: Path) -> None:
    other = json.dumps({"kind": "start", "device": "cpu"})
    lines = [other, epoch_line(2), epoch_line(1), epoch_line(2, mean_dice=0.9)]
    epochs = read_epochs(write_log(tmp_path, lines))
    assert [(e.epoch, e.mean_dice) for e in epochs] == [(1, 0.1), (2, 0.9)]


def test_a_last_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    log = write_log(tmp_path, [epoch_line(1)])
    with log.open("a", encoding="utf-8") as file:
        file.write(epoch_line(2)[:20])
    assert [e.epoch for e in read_epochs(log)] == [1]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path, [epoch_line(1), '{"kind": "ep', epoch_line(3)])
    with pytest.raises(FileProblem, match="Line 2"):
        read_epochs(log)


@pytest.mark.parametrize("text", [None, "", '{"kind": "start"}\n'])
def test_without_an_epoch_nothing_is_written(tmp_path: Path, text: str | None) -> None:
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_text(text, encoding="utf-8")
    with pytest.raises(FileProblem):
        draw_curves(log, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    "lines",
    [
        [epoch_line(0)],
        [epoch_line(e, dice={"liver": 0.1 * e, "lesion": 0.05 * e}) for e in range(8)],
        [epoch_line(0, mean_dice=None, dice={}), epoch_line(1)],
        [epoch_line(e, mean_dice=None, dice={}) for e in range(40)],
        [epoch_line(1, dice={f"organ {i}": 0.5 for i in range(12)})],
        [epoch_line(1, dice={"liver": None})],
        [epoch_line(1, loss=None)],
    ],
)
def test_every_log_gives_a_picture_and_no_leftovers(tmp_path: Path, lines: list[str]) -> None:
    png = tmp_path / "out" / "curves.png"
    draw_curves(write_log(tmp_path, lines), png)
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert picture.size == (960, 720)
        assert len(picture.convert("L").getcolors() or ()) > 10  # not an empty sheet
    assert [p.name for p in png.parent.iterdir()] == ["curves.png"]


def test_drawing_touches_no_global_state(tmp_path: Path) -> None:
    had = "matplotlib.pyplot" in sys.modules
    draw_curves(write_log(tmp_path, [epoch_line(1)]), tmp_path / "curves.png")
    assert had or "matplotlib.pyplot" not in sys.modules


def test_the_same_log_gives_the_same_file(tmp_path: Path) -> None:
    log = write_log(tmp_path, [epoch_line(1), epoch_line(2)])
    for name in ("one.png", "two.png"):
        draw_curves(log, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"kind": "epoch", "epoch": "x"}', "'epoch' in line 2"),
        (epoch_line(2, dice={"liver": []}), "'dice.liver' in line 2"),
        (epoch_line(2, scores={"psnr": 3}), "'scores.psnr' in line 2"),
        (epoch_line(2, loss=float("nan")), "Line 2"),
        ('{"kind": "epoch"}', "'epoch' in line 2"),
        ('{"kind": "epoch", "x": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(FileProblem, match=told):
        read_epochs(write_log(tmp_path, [epoch_line(1), line, epoch_line(3)]))


def test_a_log_that_is_no_text_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path, [epoch_line(1)])
    log.write_bytes(log.read_bytes() + b"\xff\xfe\n")
    with pytest.raises(FileProblem, match="UTF-8"):
        read_epochs(log)


@pytest.mark.parametrize("name", ["x" + "[" * 100_000, "a$b$^$", r"$\frac$"])
def test_names_that_are_long_or_look_like_formulas_are_drawn(tmp_path: Path, name: str) -> None:
    log = write_log(tmp_path, [epoch_line(1, dice={name: 0.5, "liver": 0.2})])
    draw_curves(log, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (960, 720)


@pytest.mark.parametrize("name", ["", "_hidden"])
def test_a_name_that_matplotlib_hides_is_in_the_legend(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        json.dumps(
            {"kind": "epoch", "epoch": 1, "step": 2, "loss": 0.5, "scores": {"psnr": {name: 20.5}}}
        )
        + "\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curves(log, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0
