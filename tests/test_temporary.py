"""Temporary files of killed processes go; those of processes at work stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctseg.files import write_text
from ctseg.temporary import STALE_SECONDS, clear_abandoned, held

OWNER = """
import sys
from pathlib import Path
from ctseg.temporary import held
with held(Path(sys.argv[1])) as free:
    print(free, flush=True)
    sys.stdin.read()
"""
LOCKS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def owner(path: Path) -> subprocess.Popen[str]:
    """A process that holds a file or folder until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


@LOCKS
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_process_holds_goes_once_it_is_killed(tmp_path, kind):
    path = tmp_path / "temporary"
    path.mkdir() if kind == "folder" else path.touch()
    with owner(path) as process:
        age(path, 2 * STALE_SECONDS)  # however long it works
        clear_abandoned([path])
        assert path.exists()
        with held(path) as free:
            assert not free
        process.send_signal(signal.SIGKILL)
    age(path, 60)
    clear_abandoned([path])
    assert not path.exists()


@LOCKS
def test_what_was_made_a_moment_ago_stays(tmp_path):
    """Its owner may not have locked it yet."""
    path = tmp_path / "temporary"
    path.touch()
    clear_abandoned([path])
    assert path.exists()


def test_without_locks_age_decides(tmp_path, monkeypatch):
    monkeypatch.setattr("ctseg.temporary._lock", lambda path: (None, None))
    young, old = tmp_path / "young", tmp_path / "old"
    for path, seconds in ((young, 60), (old, STALE_SECONDS + 60)):
        path.touch()
        age(path, seconds)
        with held(path) as free:
            assert free
    clear_abandoned([young, old, tmp_path / "gone"])
    assert [path.name for path in tmp_path.iterdir()] == ["young"]


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder", target_is_directory=True)
    clear_abandoned([link], older_s=-1)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@LOCKS
def test_whoever_writes_a_file_removes_what_an_earlier_try_left_of_it(tmp_path):
    left, others = tmp_path / ".report-ab1_cdef.json", tmp_path / ".other-ab1_cdef.json"
    for path in (left, others):
        path.touch()
        age(path, 60)
    write_text(tmp_path / "report.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [others.name, "report.json"]
