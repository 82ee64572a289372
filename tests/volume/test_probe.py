"""A helper process costs itself alone: crashes, loops, bombs and errors become one sentence."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from ctseg.errors import FileProblem
from ctseg.volume.formats import probe

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no limits to set")


def fine(path: Path) -> None:
    assert path.name


def crash(path: Path) -> None:
    ctypes.string_at(0)


def loop(path: Path) -> None:
    while True:
        pass


def bomb(path: Path) -> None:
    np.ones(1 << 30, np.float64)


def fail(path: Path, *, said: str) -> None:
    raise ValueError(said)


@pytest.mark.parametrize(
    ("name", "match"),
    [("crash", "ended the helper"), ("loop", "ended the helper"), ("bomb", "Unable to allocate")],
)
def test_what_ends_a_helper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, match: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with pytest.raises(FileProblem, match=match) as found:
        probe.try_open(tmp_path / "a.h5", f"test_probe:{name}")
    assert str(tmp_path / "a.h5") in found.value.message


def test_what_a_helper_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    probe.try_open(tmp_path / "a.h5", "test_probe:fine")
    with pytest.raises(FileProblem, match=r"it is damaged: no tree\."):
        probe.try_open(tmp_path / "a.h5", "test_probe:fail", said="something\nno tree.")
