"""Quoted patterns as inputs, and what a command says when it is ended or gets too little."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ctseg
from ctseg.cli.app import app
from ctseg.cli.signals import signals_raise
from ctseg.data.pipeline import Pipeline
from ctseg.data.store import Store
from ctseg.engine.prediction.inputs import find_items
from ctseg.errors import FileProblem, MemoryTooSmall, Terminated
from ctseg.task import classes_task
from tests.rights import permissions_count


def mask(value: int = 1) -> ctseg.Volume:
    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:4, 2:5] = value
    return ctseg.Volume.from_array(array)


def test_patterns_that_the_shell_left_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for folder in ("made", "truth"):
            ctseg.write(mask(), tmp_path / folder / f"{name}.nii.gz")
    ctseg.write(mask(2), tmp_path / "made" / "c.mha")
    pattern = str(tmp_path / "made" / "*.nii.gz")
    assert [item.id for item in find_items([pattern], channels=1)] == ["a", "b"]
    with pytest.raises(FileProblem, match="Nothing matches"):
        find_items([str(tmp_path / "*.nrrd")], channels=1)
    report = ctseg.evaluate(pattern, tmp_path / "truth" / "*.nii.gz")
    assert [case.case for case in report.cases] == ["a", "b"] and report.dice == {"1": 1.0}
    result = CliRunner().invoke(app, ["evaluate", pattern, str(tmp_path / "truth" / "?.nii.gz")])
    assert result.exit_code == 0 and "1.0000" in result.stdout
    assert CliRunner().invoke(app, ["evaluate", str(tmp_path / "x*"), pattern]).exit_code == 2
    odd = tmp_path / "scan[1].nii.gz"  # a name that looks like a pattern
    ctseg.write(mask(), odd)
    assert [item.path for item in find_items([str(odd)], channels=1)] == [odd]


def test_sigterm_is_raised_where_the_command_runs() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals_raise(), pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_command_that_is_ended_says_so_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A conversion that waits in the middle of its input: a process of its own gets the signal."""
    code = (
        "import sys, time\n"
        "from ctseg.volume import convert\n"
        "def slow(*_, **__):\n"
        "    print('now', flush=True)\n"
        "    time.sleep(60)\n"
        "convert.slab_depth = lambda _: 1\n"
        "from ctseg.cli.data import convert\n"
        "from ctseg.cli import ui\n"
        "ui.Progress.advance = slow\n"
        "from ctseg.cli.app import app\n"
        "app()\n"
    )
    ctseg.write(mask(), tmp_path / "a.nii")
    words = ["data", "convert", str(tmp_path / "a.nii"), str(tmp_path / "out" / "a.nrrd")]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "now"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Ended by SIGTERM." in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_too_little_memory_is_a_failed_run() -> None:
    assert MemoryTooSmall("x").exit_code == 1


def test_a_cache_that_may_not_be_written_names_its_variable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with permissions_count(), pytest.raises(FileProblem, match="cannot be written") as caught:
        Store(Pipeline(()), classes_task({"a": 1}), tmp_path / "cache").prepare([])
    assert "CTSEG_CACHE=FOLDER" in caught.value.hint


def test_a_cache_whose_place_is_a_file_names_its_variable(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(FileProblem, match="cannot be written") as caught:
        Store(Pipeline(()), classes_task({"a": 1}), tmp_path / "cache").prepare([])
    assert "CTSEG_CACHE=FOLDER" in caught.value.hint
