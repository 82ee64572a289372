"""What a run shows of itself: it never ends a training, unless the disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctseg.engine.training import run_report
from ctseg.engine.training.run_report import environment_of, show_progress, show_scans
from ctseg.errors import DiskFull
from ctseg.metrics.report import Report
from ctseg.report.html.case_slices import CaseSlices


class Said:
    """Keeps what a reporter is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def update(self, done: float, total: float, text: str) -> None:
        pass


def test_files_that_cannot_be_read_are_a_warning(tmp_path: Path) -> None:
    said = Said()
    show_progress(tmp_path, said)
    assert len(said.lines) == 2
    assert said.lines[0].startswith("Warning: curves.png is not drawn. The log")
    assert said.lines[1].startswith("Warning: report.html is not written.")
    (tmp_path / "validation").mkdir()
    show_scans(tmp_path, Report(()), CaseSlices(), said)
    assert len(said.lines) == 2 and not list((tmp_path / "validation").iterdir())


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        raise DiskFull("The disk is full.")

    monkeypatch.setattr(run_report, "write_run", full)
    with pytest.raises(DiskFull):
        show_progress(tmp_path, Said())


def test_the_environment_names_machine_and_versions() -> None:
    found = environment_of()
    assert {"ctseg", "Python", "torch", "numpy", "timm", "system", "processor"} <= set(found)
    assert "cores" in found["processor"] and all(isinstance(v, str) for v in found.values())
