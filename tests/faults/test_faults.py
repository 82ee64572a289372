"""A handful of the trials of `python -m tests.faults`, and that the harness finds what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.child import Ended

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, kills and limits"),
]


def faults(*options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a fork of one with threads may hang."""
    return subprocess.run(
        [sys.executable, "-m", "tests.faults", *options],
        check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_commands_survive_kills_full_disks_and_second_processes():
    ended = faults("--trials", "12", "--seed", "1000")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = ended.stdout.splitlines()[-1]
    assert told.endswith("0 failed")
    for kind in ("kill met", "disk", "second met", "rights met"):
        assert kind in told


def test_what_is_lost_or_left_is_found():
    """Without what puts a zoo right after a kill, trials fail."""
    ended = faults("--trials", "3", "--only", "zoo publish --overwrite", "--sabotage")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "FAILED" in ended.stdout


def test_an_end_by_sigkill_counts_as_a_kill():
    assert Ended(-9, "", 0, 0.0).killed
    assert not Ended(1, "", 0, 0.0).killed
