"""Publishing and removing, killed between their steps: the zoo is put right by whatever looks at it next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctseg.zoo.publish import publish
from ctseg.zoo.resolve import list_weights, resolve_model
from ctseg.zoo.verify import verify

KILLED = """
import os, signal, sys
from ctseg.zoo import store
from ctseg.zoo.publish import publish
from ctseg.zoo.remove import remove

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

action, moment, zoo, *run = sys.argv[1:]
setattr(store if action == "publish" else sys.modules["ctseg.zoo.remove"], moment, kill)
if moment == "rename":
    from pathlib import Path
    plain = Path.rename
    def rename(self, target):
        return kill() if self.name.startswith(".publish-") else plain(self, target)
    Path.rename = rename
publish(run[0], tag="v1", measure=False, overwrite=True) if action == "publish" else remove("unet3d.v1")
"""


def killed(*arguments: object) -> None:
    """Publish or remove in a process that kills itself at one moment."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, arguments)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def later(zoo: Path) -> None:
    """What a killed process left is some seconds old."""
    for path in zoo.glob(".*"):
        os.utime(path, (time.time() - 60,) * 2)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize(
    ("moment", "seed"), [("rename", 0), ("write_index_entry", 1), ("delete_folder", 1)]
)
def test_an_entry_is_the_old_or_the_new_one_whenever_publishing_is_killed(
    make_run, own_zoo: Path, moment: str, seed: int
) -> None:
    """Before the new one gets the name, before the index is written, and before the old one is deleted."""
    publish(make_run("a"), tag="v1", measure=False)
    killed("publish", moment, own_zoo, make_run("b", seed=1))
    later(own_zoo)
    assert resolve_model("unet3d.v1").card.seed == seed
    (check,) = verify(["unet3d.v1"])
    assert check.sound and not check.notes
    assert sorted(path.name for path in own_zoo.iterdir()) == ["index.json", "unet3d.v1"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("moment", ["rename", "write_index_entry"])
def test_a_first_publication_that_is_killed_is_there_in_full_or_not_at_all(
    make_run, own_zoo: Path, moment: str
) -> None:
    killed("publish", moment, own_zoo, make_run("a"))
    later(own_zoo)
    there = list_weights() == ["unet3d.v1"]
    assert there == (moment == "write_index_entry")
    assert all(check.sound and not check.notes for check in verify())
    publish(make_run("b", seed=1), tag="v1", measure=False, overwrite=there)
    assert sorted(path.name for path in own_zoo.iterdir()) == ["index.json", "unet3d.v1"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_removal_that_is_killed_is_brought_to_its_end(make_run, own_zoo: Path) -> None:
    run = make_run("a")
    publish(run, tag="v1", measure=False)
    killed("remove", "write_index_entry", own_zoo)
    later(own_zoo)
    assert list_weights() == []
    publish(run, tag="v2", measure=False)
    assert sorted(path.name for path in own_zoo.iterdir()) == ["index.json", "unet3d.v2"]
    assert all(check.sound for check in verify())
