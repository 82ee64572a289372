"""The folder of uploads and results: removed when the server ends or, after a kill, when the next one starts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctseg.files import disk_errors
from ctseg.temporary import clear_abandoned, held

PREFIX = ".ctseg-serve-"


@contextmanager
def scratch_root(place: Path | None = None) -> Iterator[Path]:
    """A new folder with a lock, readable by this user only.

    Those of killed servers are removed first: their locks ended with their processes.

    Args:
        place: folder in which it is made; the system's temporary folder by default.

    Raises:
        FileProblem: the place cannot be written.
    """
    place = Path(place or tempfile.gettempdir()).expanduser().resolve()
    with disk_errors(place, option="--scratch"):
        place.mkdir(parents=True, exist_ok=True)
        clear_abandoned(place.glob(f"{PREFIX}{'[a-z0-9_]' * 8}"))
        root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    try:
        with held(root):
            yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
