"""Temporary files and folders with locks, so that those of killed processes can be recognised and removed.

The owner holds a system lock (`flock`) on its temporary file; the lock ends with the process. On systems and file
systems without such locks, age decides.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

STALE_SECONDS = 6 * 3600
"""Age without changes from which a file counts as abandoned if there are no locks."""
GRACE_SECONDS = 2.0
"""Time for an owner to lock a file that it has just created."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock of an existing file or folder.

    Yields:
        False if another process holds it; True also if there are no locks.
    """
    descriptor, free = _lock(path)
    try:
        yield free is not False
    finally:
        if descriptor is not None:
            os.close(descriptor)


def clear_abandoned(
    paths: Iterable[Path], *, older_s: float = STALE_SECONDS, locked: bool = True
) -> None:
    """Remove the temporary files and folders whose owners have ended.

    Args:
        older_s: age from which a file counts as abandoned if there are no locks.
        locked: whether owners hold locks on these files; if not, age decides.
    """
    for path in paths:
        with contextlib.suppress(OSError):  # another process may have been faster
            age = time.time() - path.lstat().st_mtime
            if age <= min(GRACE_SECONDS, older_s):
                continue
            descriptor, free = _lock(path) if locked else (None, None)
            try:
                if free or (free is None and age > older_s):
                    _remove(path)
            finally:
                if descriptor is not None:
                    os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _lock(path: Path) -> tuple[int | None, bool | None]:
    """A descriptor with the lock, and whether the lock was free; both None where the system has no locks."""
    if sys.platform == "win32":
        return None, None
    descriptor = None
    for flags in (os.O_RDWR, os.O_RDONLY):  # network file systems lock only writable files
        with contextlib.suppress(OSError):
            descriptor = os.open(path, flags | os.O_NOFOLLOW)
            break
    if descriptor is None:
        return None, None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), path.lstat()):
            raise BlockingIOError  # another process has replaced the file
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None, False
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None, None
    return descriptor, True
