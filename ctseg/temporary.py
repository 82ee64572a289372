"""Temporary files and folders that tell whether their owner is still at work, so that those of killed ones go.

The owner holds a lock of the system (`flock`) on what it makes; the lock ends with the process, however that ends.
Where the system or the file system has no such locks, age decides.
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
"""Nobody works on one file for so long without touching it."""
GRACE_SECONDS = 2.0
"""Between making a file and locking it, its owner may be held up."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock of an existing file or folder.

    Yields:
        False where another process holds it; True also where there are no locks.
    """
    descriptor, free = _lock(path)
    try:
        yield free is not False
    finally:
        if descriptor is not None:
            os.close(descriptor)


def clear_abandoned(paths: Iterable[Path], *, older_s: float = STALE_SECONDS) -> None:
    """Remove those of some temporary files and folders whose owners are gone.

    Args:
        older_s: age from which an owner counts as gone where no lock tells it.
    """
    for path in paths:
        with contextlib.suppress(OSError):  # another process may have been faster
            age = time.time() - path.lstat().st_mtime
            if age <= min(GRACE_SECONDS, older_s):
                continue
            descriptor, free = _lock(path)
            try:
                if age > older_s if free is None else free:
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
    """A descriptor with the lock, and whether it was free: None where nothing tells."""
    if sys.platform == "win32":
        return None, None
    descriptor = None
    for flags in (os.O_RDWR, os.O_RDONLY):  # network file systems lock only what may be written
        with contextlib.suppress(OSError):
            descriptor = os.open(path, flags | os.O_NOFOLLOW)
            break
    if descriptor is None:
        return None, None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), path.lstat()):
            raise BlockingIOError  # another process has put a new one in its place
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None, False
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None, None
    return descriptor, True
