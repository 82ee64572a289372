"""Temporary files that a killed process left beside results."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path

from ctseg.data.store import STALE_SECONDS

_TEMPORARY = re.compile(
    r"^\.("
    r".+\.\d+-[0-9a-f]{8}\.tmp(\..+)?"  # results on their way, see ctseg.volume.formats.writer
    r"|ctseg-.+\.raw"  # unpacked scans, where files cannot do without a name
    r"|predictions-[a-z0-9_]{8}\.json"
    r"|.+-\d+-\d+-\d+\.part"  # parts made by several processes
    r")$"
)


def remove_leftovers(folder: Path, *, older_s: float = STALE_SECONDS) -> None:
    """Remove temporary files that nobody has touched for hours; younger ones may belong to a process at work.

    They never have the name of a result, so that leaving them costs nothing but room.
    """
    inside = (
        "",
        "probabilities/",
        "confidence/",
        "instances/",
        "masks/*/",
    )  # ctseg.engine.prediction.output_paths
    for path in (path for place in inside for path in folder.glob(f"{place}.*")):
        if _TEMPORARY.match(path.name):
            with suppress(OSError):  # another process may have been faster
                if path.is_file() and time.time() - path.stat().st_mtime > older_s:
                    path.unlink()
