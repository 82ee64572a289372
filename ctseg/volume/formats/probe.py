"""A helper process that opens suspicious files first, so that a broken file cannot crash or hang the main process.

Native libraries may crash or never return on damaged files. The helper takes a start of Python, so a format uses it
only if its own checks find something odd.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctseg.errors import FileProblem
from ctseg.volume.formats.source import AGAIN

SECONDS = 5.0
"""Seconds that a helper may take after its start."""
MEMORY = 1 << 30
"""Memory that a helper may take beyond that after its start."""
_START = 30.0
_SAID = 2000


def try_open(path: Path, function: str, **options: Any) -> None:
    """Open a file in a helper process.

    Args:
        path: the file.
        function: `module:name` of a function that takes the path and the options, opens the file, and reads the parts
            that the library must interpret.
        options: options of the function, as JSON can store them.

    Raises:
        FileProblem: the helper failed, crashed, or took too much time or memory.
    """
    damaged = f"{path} cannot be read; it is damaged"
    try:
        status, said = run_helper(path, function, options)
    except subprocess.TimeoutExpired as error:
        raise FileProblem(f"{damaged}: opening it does not end.", hint=AGAIN) from error
    if status == 1 and said:
        raise FileProblem(f"{damaged}: {said}.", hint=AGAIN)
    if status:
        raise FileProblem(
            f"{damaged}: opening it ended the helper process that tried (status {status}).",
            hint=AGAIN,
        )


def run_helper(path: Path, function: str, options: Mapping[str, Any]) -> tuple[int, str]:
    """The exit status of a helper process, and what it said."""
    command = [sys.executable, "-m", __name__, str(path), function, json.dumps(options)]
    # one thread, since each of many would reserve memory
    threads = {
        f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB")
    }
    with subprocess.Popen(  # noqa: S603 (the interpreter itself, without a shell)
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **threads},
    ) as helper:
        try:
            output, _ = helper.communicate(timeout=_START + SECONDS)
        finally:
            helper.kill()
    return helper.returncode, output.decode(errors="replace")


def _limit() -> None:
    """Limit time and memory of this process, where the system supports it."""
    if sys.platform == "win32":  # no such limits; the caller's timeout still applies
        return
    import resource
    import signal

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _run(path: str, function: str, options: Mapping[str, Any]) -> int:
    from importlib import import_module

    module, _, name = function.partition(":")
    look = getattr(import_module(module), name)
    _limit()
    try:
        look(Path(path), **options)
    except Exception as error:  # the caller reports errors of any kind
        lines = str(error).strip().splitlines() or [type(error).__name__]
        sys.stdout.write(lines[-1].rstrip(".")[:_SAID])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_run(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
