"""The runs of a series that is replaced: set aside until the first fold of the new one has begun, then removed.

Until then the new series may be refused, stopped or killed, and the earlier one is put back as it was.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from ctseg.engine.evaluation.runs import FOLD, RUN_FILE, SPLITS
from ctseg.engine.training.run_folder import lock
from ctseg.files import disk_errors

EARLIER = ".earlier"
_MOVED = re.compile(FOLD.format(r"\d+"))


def set_aside(folder: Path) -> None:
    """Move all folds in a folder, and their splits, out of the way.

    Raises:
        BadInput: another process trains one of them; nothing is moved then.
    """
    found = sorted(filter(_is_moved, folder.iterdir())) if folder.is_dir() else []
    if not found:
        return
    with contextlib.ExitStack() as stack, disk_errors(folder):
        for path in found:
            if path.is_dir():
                lock(path, stack)
        (folder / EARLIER).mkdir()
        for path in found:  # the first fold first: without it `settle` puts all of them back
            path.rename(folder / EARLIER / path.name)


def settle(folder: Path) -> None:
    """Remove what was set aside where the first fold of a new series has begun, and put it back where it has not.

    Raises:
        BadInput: another process is about to begin the first fold.
    """
    aside, first = folder / EARLIER, folder / FOLD.format(0)
    if not aside.is_dir():
        return
    with contextlib.ExitStack() as stack, disk_errors(folder):
        if (first / RUN_FILE).is_file():
            shutil.rmtree(aside)
            return
        if first.is_dir():  # a killed process left it, before its configuration was in place
            lock(first, stack)
            shutil.rmtree(first)
        for path in sorted(aside.iterdir(), reverse=True):  # the first fold last
            path.replace(folder / path.name)
        aside.rmdir()


def _is_moved(path: Path) -> bool:
    return path.name == SPLITS or (
        _MOVED.fullmatch(path.name) is not None and (path / RUN_FILE).is_file()
    )
