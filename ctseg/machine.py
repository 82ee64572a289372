"""The cores and memory of this machine, within the limits of Slurm, systemd and containers."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

UNLIMITED = 2**62
USUAL = 400 * 2**20
"""Typical memory of an interpreter with torch."""
STATUS, CPUINFO = Path("/proc/self/status"), Path("/proc/cpuinfo")
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of limit and usage, and the key of reclaimable caches in `memory.stat`: of cgroup v2, and of v1."""


@contextlib.contextmanager
def handled(names: Iterable[str], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle signals meanwhile, in the main thread; one that is ignored, as SIGHUP under `nohup`, stays so.

    Args:
        names: such as `SIGTERM`; those that the system does not have are left out.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def process_rank() -> int:
    """This process's number among those that torchrun started; 0 for one alone."""
    alone = os.environ.get("WORLD_SIZE") in (None, "", "1")
    return 0 if alone else int(os.environ.get("RANK") or 0)


def cores() -> int:
    """Cores that this process may use, by its CPU affinity and the CPU quota of its cgroups."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _groups("cpu") if (quota := _cpu_quota(folder)) is not None]
    return max(1, min([count, *map(math.ceil, quotas)]))


def processor() -> str:
    """The processor's name; Linux tells it in a file only."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def memory() -> tuple[int, int] | None:
    """Total bytes and available bytes (including file caches); None if the system does not report them."""
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
    """Available bytes; practically unlimited if the system does not report them."""
    known = memory()
    return UNLIMITED if known is None else known[1]


def own_memory() -> int:
    """Bytes that this process uses, without memory-mapped files; a guess if the system does not report them."""
    try:
        lines = _text(STATUS).splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return USUAL


def _groups(kind: str) -> list[Path]:
    """The folders of the cgroups that limit this process: its own and all its parents.

    In a container they begin at the root; a batch job or a systemd service lies further down.
    """
    try:
        lines = _text(MEMBERSHIP).splitlines()
    except (OSError, ValueError):
        lines = []
    folders: dict[Path, None] = {}
    for line in ("0::/", f"0:{kind}:/", *lines):
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if kinds and kind not in kinds.split(","):
            continue
        folder = CGROUP / kind if kinds else CGROUP
        folders[folder] = None
        for part in path.strip("/").split("/"):
            if part in ("", ".", ".."):
                break
            folder = folder / part
            folders[folder] = None
    return list(folders)


def _limit(folder: Path) -> tuple[int, int] | None:
    """The memory limit of a cgroup, and its usage without file caches, in bytes; None without a limit."""
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


def _cpu_quota(folder: Path) -> float | None:
    """The CPU quota of a cgroup, in cores; None without a limit."""
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
