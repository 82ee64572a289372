"""A bounded run of `python -m tests.hostile`, and that the harness finds what it looks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ctseg.data.readers.layout import named_task
from ctseg.errors import BadInput

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, limits and /proc")
COUNT = 24
ROOT = Path(__file__).parents[2]


def python(*options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a fork of one with threads may hang."""
    return subprocess.run(
        [sys.executable, *options], check=False, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    ended = python(
        "-m", "tests.hostile", "--executions", str(COUNT), "--seed", "1", "--json", str(counts),
        "--reproducers", str(tmp_path / "failures"),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    found = json.loads(counts.read_text())
    assert len(found) + ended.stdout.count("left out") == 25
    for target in found:
        assert target["executions"] == COUNT
        assert sum(target["outcomes"].values()) == COUNT
        refused = COUNT - target["outcomes"].get("read", 0)
        assert refused > COUNT // 5, f"{target['target']}: the damage reaches nothing"


BAD = """
    import os, sys, time
    from pathlib import Path
    from tests.hostile import campaign
    from tests.hostile.mutate import scramble
    from tests.hostile.target import Seed, Target

    campaign.PATIENCE, campaign.SECONDS = {patience}, 1.0
    folder = Path(sys.argv[1])
    calls = 0

    def read(path):
        global calls
        calls += 1
        if path.read_bytes() == b"good" * 100:
            return
        {what}

    def make(place):
        place.joinpath("x").write_bytes(b"good" * 100)
        return [Seed("x", place / "x", [place / "x"], [scramble()], read)]

    made = campaign.Campaign(Target("bad", make, memory=1 << 27), folder / "work", 0)
    result = made.run(3)
    campaign.keep(made, result.failures, folder / "kept", "again")
    print(sorted(result.outcomes.items()))
    print([why.strip().splitlines()[-1] for _, why in result.failures])
    assert (folder / "work" / "x").read_bytes() == b"good" * 100 or result.outcomes.keys() & {{"crash", "hang"}}
"""


@pytest.mark.parametrize(
    ("what", "outcome", "why"),
    [
        ("raise KeyError('lost')", "('KeyError', 3)", "KeyError: 'lost'"),
        ("os.abort()", "('crash', 3)", "ends the process (-6)"),
        ("time.sleep(60)", "('hang', 3)", "says nothing for 1 s"),
        ("[None for _ in iter(int, 1)]", "('TooSlow', 3)", "more than"),
        ("bytearray(b'x') * (1 << 28)", "('read', 3)", "takes 2"),
        ("sys.stderr.write('noise'); sys.stderr.flush()", "('read', 3)", "noise"),
    ],
)
def test_what_goes_wrong_is_found_and_kept(
    tmp_path: Path, what: str, outcome: str, why: str
) -> None:
    patience = 1.0 if "hang" in outcome else 300.0  # a busy machine is no hang
    ended = python("-c", textwrap.dedent(BAD.format(what=what, patience=patience)), str(tmp_path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert outcome in ended.stdout and why in ended.stdout
    for number in range(3):
        about = json.loads((tmp_path / "kept" / str(number) / "failure.json").read_text())
        assert about["again"] == f"again --only {number}"
        assert (tmp_path / "kept" / str(number) / "x").read_bytes() != b"good" * 100


@pytest.mark.parametrize("ignore", [float("inf"), float("nan"), "x", [1]])
def test_an_ignored_value_that_is_no_number_is_refused(tmp_path: Path, ignore: object) -> None:
    with pytest.raises(BadInput, match="ignore"):
        named_task({"box": 1}, ignore)  # type: ignore[arg-type]
