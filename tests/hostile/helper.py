"""The helper process for suspicious files as a fork, which saves the start of Python for each damaged copy."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctseg.volume.formats import probe


def fork_helper(path: Path, function: str, options: Mapping[str, Any]) -> tuple[int, str]:
    """What `probe.run_helper` does, with the same limits; a helper that hangs is ended by its own alarm."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(writing, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            status = probe._run(str(path), function, options)
            sys.stdout.flush()
            os._exit(status)
        finally:
            os._exit(70)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode(errors="replace")
