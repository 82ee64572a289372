"""What this machine offers: cores and memory, within the limits of its container."""

from __future__ import annotations

import math
import os
from pathlib import Path

UNLIMITED = 2**62
USUAL = 400 * 2**20
"""What an interpreter with torch holds."""
STATUS = Path("/proc/self/status")
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Limit, use and, in `memory.stat`, caches that are given back: of control groups of version 2, and of version 1."""


def cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer where its container has a share of the time."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    shares = [share for folder in _groups("cpu") if (share := _share(folder)) is not None]
    return max(1, min([count, *map(math.ceil, shares)]))


def memory() -> tuple[int, int] | None:
    """Bytes in all, and those that are there to be used, caches of files included; None where nobody tells."""
    try:
        lines = _text(MEMINFO).splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):  # Windows and macOS have no such file
        return None
    for folder in _groups("memory"):
        limit = _limit(folder)
        if limit is not None:
            total, free = min(total, limit[0]), min(free, limit[0] - limit[1])
    return total, max(free, 0)


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


def _groups(kind: str) -> list[Path]:
    """The folders of the control groups that bound this process: its own, and those that it lies in.

    In a container they begin at the root; a job of a batch system or a service of systemd lies further down.
    """
    try:
        lines = _text(MEMBERSHIP).splitlines()
    except (OSError, ValueError):
        lines = []
    found: dict[Path, None] = {}
    for line in ("0::/", f"0:{kind}:/", *lines):
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if kinds and kind not in kinds.split(","):
            continue
        place = CGROUP / kind if kinds else CGROUP
        found[place] = None
        for part in path.strip("/").split("/"):
            if part in ("", ".", ".."):
                break
            place = place / part
            found[place] = None
    return list(found)


def _limit(folder: Path) -> tuple[int, int] | None:
    """Bytes that a group may hold, and those that it holds, caches of files not counted; None without a limit."""
    for limit, usage, cache in MEMORY_FILES:
        try:
            bound, taken = int(_text(folder / limit)), int(_text(folder / usage))
        except (OSError, ValueError):  # no such file, or "max"
            continue
        try:
            stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            return bound, taken - int(stat.get(cache, 0))
        except (OSError, ValueError):
            return bound, taken
    return None


def _share(folder: Path) -> float | None:
    """Cores' worth of time that a group gets; None without a limit."""
    try:
        quota, period = map(int, _text(folder / "cpu.max").split())
    except (OSError, ValueError):  # no such file, or "max"
        try:
            quota = int(_text(folder / "cpu.cfs_quota_us"))
            period = int(_text(folder / "cpu.cfs_period_us"))
        except (OSError, ValueError):
            return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii")
