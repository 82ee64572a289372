"""Temporary files that a killed process left beside results."""

from __future__ import annotations

import re
from pathlib import Path

from ctseg.temporary import STALE_SECONDS, clear_abandoned

_TEMPORARY = re.compile(
    r"^\.("
    r".+\.\d+-[0-9a-f]{8}\.tmp(\..+)?(?<!\.old)"  # results on their way, see ctseg.volume.formats.writer
    r"|ctseg-.+\.raw"  # unpacked scans, where files cannot do without a name
    r"|predictions-[a-z0-9_]{8}\.json"
    r"|.+-\d+-\d+-\d+\.part"  # parts made by several processes
    r")$"
)


def remove_leftovers(folder: Path, *, older_s: float = STALE_SECONDS) -> None:
    """Remove temporary files of processes that are gone; see `ctseg.temporary.is_abandoned`.

    They never have the name of a result, so that leaving them costs nothing but room.
    """
    inside = (
        "",
        "probabilities/",
        "confidence/",
        "instances/",
        "masks/*/",
    )  # ctseg.engine.prediction.output_paths
    found = (path for place in inside for path in folder.glob(f"{place}.*"))
    clear_abandoned(
        (path for path in found if _TEMPORARY.match(path.name)),
        older_s=older_s,
    )
