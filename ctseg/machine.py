"""What this machine offers: cores and memory, within the limits of its container."""

from __future__ import annotations

import os
from pathlib import Path

UNLIMITED = 2**62
USUAL = 400 * 2**20
"""What an interpreter with torch holds."""
STATUS = Path("/proc/self/status")
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> tuple[int, int] | None:
    """Bytes in all, and those that are there to be used, caches of files included; None where nobody tells."""
    try:
        lines = _text(MEMINFO).splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):  # Windows and macOS have no such file
        return None
    try:
        bound, taken = (int(_text(CGROUP / f"memory.{what}")) for what in ("max", "current"))
        stat = dict(line.split() for line in _text(CGROUP / "memory.stat").splitlines())
        taken -= int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # no such limit, or "max"
        return total, free
    return min(total, bound), max(min(free, bound - taken), 0)


def free_memory() -> int:
    """Bytes that are there to be used; as good as unlimited where nobody tells."""
    known = memory()
    return UNLIMITED if known is None else known[1]


def own_memory() -> int:
    """Bytes that this process holds, files that it has mapped not counted; a guess where nobody tells."""
    try:
        lines = _text(STATUS).splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return USUAL


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii")
