"""Removes temporary files that a killed process left in an output folder."""

from __future__ import annotations

import re
from pathlib import Path

from ctseg.temporary import STALE_SECONDS, clear_abandoned

_TEMPORARY = re.compile(
    r"^\.("
    r".+\.\d+-[0-9a-f]{8}\.tmp(\..+)?(?<!\.old)"  # unfinished results, see ctseg.volume.formats.writer
    r"|ctseg-.+\.raw"  # unpacked scans, on systems without unnamed files
    r"|predictions-[a-z0-9_]{8}\.json"
    r"|.+-\d+-\d+-\d+\.part"  # parts of results from several processes
    r")$"
)


def remove_leftovers(folder: Path, *, older_s: float = STALE_SECONDS) -> None:
    """Remove temporary files of processes that have ended; see `ctseg.temporary.is_abandoned`.

    Temporary files never have the name of a result, so any that remain only take space.
    """
    inside = (
        "",
        "probabilities/",
        "confidence/",
        "instances/",
        "masks/*/",
    )  # ctseg.engine.prediction.output_paths
    hidden = (path for subfolder in inside for path in folder.glob(f"{subfolder}.*"))
    clear_abandoned(
        (path for path in hidden if _TEMPORARY.match(path.name)),
        older_s=older_s,
    )
