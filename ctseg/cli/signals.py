"""Handles like Ctrl-C the signals that `kill`, batch systems, service managers and closed terminals send."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ctseg.errors import Terminated
from ctseg.machine import handled


@contextmanager
def signals_raise(*more: str) -> Iterator[None]:
    """Raise `Terminated` on SIGTERM and SIGHUP, so that results stay and temporary files are removed, as on Ctrl-C.

    Args:
        more: names of further signals that end a command, as far as the system has them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker keeps the default action
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Terminated(number)

    with handled(("SIGTERM", "SIGHUP", *more), end):
        yield
