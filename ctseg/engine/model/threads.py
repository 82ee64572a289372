"""PyTorch's threads on the cores that the process may use, which may become fewer while it runs.

Threads that share a core wait for each other in turns: a run of two threads whose cores were taken down to one by
`taskset` made a step in 6.2 s that had taken 0.13 s before; with one thread, in 0.2 to 0.34 s (the command stands in
docs/explanation/training.md).
"""

from __future__ import annotations

import os
import threading

import torch


def _cores() -> int:
    """The cores that the process may use; 0 where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


class _Seen(threading.local):
    """What a thread saw last; PyTorch keeps the number of threads by the thread that calls it."""

    cores = _cores()
    """At first those of the process when this module was loaded, before scans are prepared."""
    asked = 0
    """Threads before cores were taken away; 0 where none are missing."""


_seen = _Seen()


def follow_cores() -> int | None:
    """Use no more threads than cores after cores were taken from the process, and as many as before when they are back.

    A number of threads that was above that of the cores from the start stays.

    Returns:
        The new number of threads; None where it stays.
    """
    cores, threads = _cores(), torch.get_num_threads()
    if cores == _seen.cores:
        return None
    fewer, _seen.cores = cores < _seen.cores, cores
    if not fewer and not _seen.asked:
        return None
    asked = _seen.asked or threads
    now = min(asked, cores)
    _seen.asked = asked if now < asked else 0
    if now == threads:
        return None
    torch.set_num_threads(now)
    return now
