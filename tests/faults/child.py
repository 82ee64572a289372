"""Commands of ctseg in forked processes, with a fault in each: nothing is imported twice, so that a trial is quick."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CHANGES = frozenset({
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.chmod",
    "shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp",
})  # fmt: skip
"""What Python tells its audit hooks before it changes files; opening for writing is told as `open`."""
PATIENCE_S = 300
PIPE_BYTES = 2**20
"""Room for all that a command says: nobody reads before it ends."""


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


@dataclass(frozen=True)
class Child:
    """A command under way, in a session of its own.

    Attributes:
        output, changes: pipes to read what it says, and a byte for each change of files; limits of files spare them.
        begun: monotonic time.
    """

    pid: int
    output: int
    changes: int
    begun: float


def run(arguments: Sequence[object], fault: Fault | None = None, kill_s: float = 0) -> Ended:
    """Run a command to its end, or kill it after some seconds.

    Raises:
        AssertionError: it hangs, or leaves processes behind.
    """
    child = start(arguments, fault)
    status = _wait(child.pid, kill_s or PATIENCE_S)
    if status is None:
        os.kill(child.pid, signal.SIGKILL)
    ended = finish(child, status)
    assert status is not None or kill_s, f"{arguments[0]} hangs:\n{ended.said}"
    return ended


def start(arguments: Sequence[object], fault: Fault | None = None) -> Child:
    """Start a command."""
    sys.stdout.flush()
    sys.stderr.flush()
    output, said = _pipe()
    changes, changed = _pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid:
        os.close(said)
        os.close(changed)
        return Child(pid, output, changes, begun)
    code = 70
    try:
        os.setsid()
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
        _count(changed)
        if fault is not None:
            fault()
        code = _command(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)
    raise AssertionError


def finish(child: Child, status: int | None = None) -> Ended:
    """Wait for a child, and see that nothing of its session is left."""
    if status is None:
        _, status = os.waitpid(child.pid, 0)
    seconds = time.monotonic() - child.begun
    end = time.monotonic() + 20
    left = False
    while _session_lives(child.pid):
        if time.monotonic() > end:
            os.killpg(child.pid, signal.SIGKILL)
            left = True
        time.sleep(0.02)
    said = _drain(child.output).decode(errors="replace")
    changes = len(_drain(child.changes))
    assert not left, f"the command left processes behind: {said}"
    return Ended(os.waitstatus_to_exitcode(status), said, changes, seconds)


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return ends


def _drain(end: int) -> bytes:
    """All that was written, once no writer is left."""
    with open(end, "rb") as file:
        return file.read()


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


def _count(end: int) -> None:
    """Write one byte a change of files; what was counted outlives a kill."""
    owner = os.getpid()

    def hook(event: str, args: tuple[object, ...]) -> None:
        if os.getpid() == owner and _changes(event, args):
            os.write(end, b".")

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
