"""The folder of a run: whether it is free, its lock, and what is removed from it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from ctseg.engine.training import checkpoint
from ctseg.engine.training.job import RUN_FILE
from ctseg.engine.training.planned import PLAN
from ctseg.errors import BadInput
from ctseg.temporary import held

BEGUN = re.compile(r"plan\.json|\.(plan|config)-[a-z0-9_]{8}\.(json|toml)")
"""What a process that was killed before its configuration was in place leaves in a run folder."""


def check_free(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is a run to be overwritten."""
    if not folder.exists():
        return
    if folder.is_dir() and all(BEGUN.fullmatch(path.name) for path in folder.iterdir()):
        return
    is_run = (folder / RUN_FILE).is_file()
    if overwrite and is_run:
        return
    if is_run:
        done = " that can be resumed" if checkpoint.exists(folder / "last") else ""
        raise BadInput(
            f"{folder} holds a run{done} already.",
            hint=f"Go on with it: ctseg train --resume -o {folder}   or replace it: --overwrite",
        )
    raise BadInput(f"{folder} is not empty and no run.", hint="Choose another place with -o.")


def lock(folder: Path, stack: contextlib.ExitStack) -> None:
    """Keep other processes out of the run folder until the stack is closed, or this process ends."""
    if not stack.enter_context(held(folder)):
        raise BadInput(
            f"Another process is training in {folder}.",
            hint="Wait until it has ended, or choose another folder with -o.",
        )


def take_back(folder: Path) -> None:
    """Remove what a run wrote before its data turned out to be unusable."""
    for name in (RUN_FILE, PLAN):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
