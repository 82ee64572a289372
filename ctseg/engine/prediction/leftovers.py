"""Removes temporary files that a killed process left in an output folder."""

from __future__ import annotations

import re
from pathlib import Path

from ctseg import plugins
from ctseg.temporary import STALE_SECONDS, clear_abandoned

_LOCKED = re.compile(
    r"^\.("
    r".+\.\d+-[0-9a-f]{8}\.tmp(\..+)?(?<!\.old)"  # unfinished results, see ctseg.volume.formats.writer
    r"|predictions-[a-z0-9_]{8}\.json"
    r")$"
)
_WITHOUT_LOCK = re.compile(
    r"^\.("
    r"ctseg-.+\.raw"  # unpacked scans, on systems without unnamed files
    r"|.+-\d+-\d+-\d+\.part"  # parts of results from several processes, which outlive their writers
    r")$"
)


def remove_leftovers(folder: Path, *, older_s: float = STALE_SECONDS) -> None:
    """Remove temporary files of processes that have ended; see `ctseg.temporary.clear_abandoned`.

    Temporary files never have the name of a result, so any that remain only take space.
    """
    # The folders of ctseg.engine.prediction.output_paths.
    copies = [f"{suffix.strip('.')}/" for spec in plugins.formats() for suffix in spec.suffixes]
    inside = (
        "",
        "probabilities/",
        "confidence/",
        "uncertainty/",
        "instances/",
        "masks/*/",
        *copies,
    )
    hidden = [path for subfolder in inside for path in folder.glob(f"{subfolder}.*")]
    for pattern, locked in ((_LOCKED, True), (_WITHOUT_LOCK, False)):
        found = (path for path in hidden if pattern.match(path.name))
        clear_abandoned(found, older_s=older_s, locked=locked)
