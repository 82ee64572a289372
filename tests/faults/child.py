"""Commands of ctseg in forked processes, with a fault in each: nothing is imported twice, so that a trial is quick."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHANGES = frozenset({
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.chmod",
    "shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp",
})  # fmt: skip
"""What Python tells its audit hooks before it changes files; opening for writing is told as `open`."""
PATIENCE_S = 300


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit status, negative for a signal.
        said: standard output and error.
        changes: how often it was about to change files.
        seconds: wall-clock time.
    """

    code: int
    said: str
    changes: int
    seconds: float

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


Fault = Callable[[], None]
"""Called in the child before the command."""


def run(
    arguments: Sequence[object], log: Path, fault: Fault | None = None, kill_s: float = 0
) -> Ended:
    """Run a command to its end, or kill it after some seconds.

    Raises:
        AssertionError: it hangs, or leaves processes behind.
    """
    begun = time.monotonic()
    child = start(arguments, log, fault)
    if kill_s:
        status = _wait(child, kill_s)
        if status is None:
            os.kill(child, signal.SIGKILL)
    else:
        status = _wait(child, PATIENCE_S)
        if status is None:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"{arguments[0]} hangs:\n{log.read_text()}")
    return finish(child, log, begun, status)


def start(arguments: Sequence[object], log: Path, fault: Fault | None = None) -> int:
    """Start a command in a session of its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        out = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
        _count(log.with_suffix(".changes"))
        if fault is not None:
            fault()
        code = _command(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)
    raise AssertionError


def finish(child: int, log: Path, begun: float, status: int | None = None) -> Ended:
    """Wait for a child, and see that nothing of its session is left."""
    if status is None:
        _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - begun
    end = time.monotonic() + 20
    while _session_lives(child):
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            raise AssertionError("the command left processes behind")
        time.sleep(0.02)
    changes = log.with_suffix(".changes")
    count = changes.stat().st_size if changes.exists() else 0
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), count, seconds)


def killed_at(change: int) -> Fault:
    """Kill the process just before it changes files for the n-th time."""
    left = change

    def hook() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def fault() -> None:
        owner = os.getpid()
        sys.addaudithook(
            lambda *event: hook() if os.getpid() == owner and _changes(*event) else None
        )

    return fault


def small_files(limit: int) -> Fault:
    """Let no file grow beyond some bytes, as on a full disk."""

    def fault() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return fault


def full_disk(change: int) -> Fault:
    """Have the system say, from the n-th change of files on, that the disk is full where Python makes a file."""
    left = change
    grows = frozenset({"os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp"})

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        left -= _changes(event, args)
        if left <= 0 and _changes(event, args, grows):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), args[0])

    def fault() -> None:
        owner = os.getpid()
        sys.addaudithook(lambda *event: hook(*event) if os.getpid() == owner else None)

    return fault


def _changes(event: str, args: tuple[object, ...], kinds: frozenset[str] = CHANGES) -> bool:
    if event == "open" and len(args) == 3 and isinstance(args[2], int):
        written = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return bool(written) and isinstance(args[0], str | bytes) and "/dev/" not in str(args[0])
    return event in kinds


def _count(file: Path) -> None:
    """Write one byte a change of files; what was counted outlives a kill."""
    descriptor = os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND)
    owner = os.getpid()

    def hook(event: str, args: tuple[object, ...]) -> None:
        if os.getpid() == owner and _changes(event, args):
            with contextlib.suppress(OSError):
                os.write(descriptor, b".")

    sys.addaudithook(hook)


def _command(arguments: Sequence[object]) -> int:
    from ctseg.cli.app import app

    try:
        app(args=[str(a) for a in arguments], prog_name="ctseg")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _wait(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(min(0.002, seconds))
    return None


def _session_lives(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True
