"""The errors that ctseg raises on purpose; each states the problem, what was expected, and the remedy."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_LONGEST = 300
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


class Terminated(KeyboardInterrupt):
    """SIGTERM, SIGHUP or SIGUSR1, handled like Ctrl-C.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


class CtsegError(Exception):
    """Base class of all errors that ctseg raises on purpose.

    Args:
        message: the problem and what was expected, in one sentence; control characters, which values of a file may
            contain, are shown as escapes.
        hint: the command or option that solves it, or what to check.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = _on_one_line(message)
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class BadInput(CtsegError, ValueError):
    """An unusable file, folder, array or option."""

    exit_code = EXIT_BAD_INPUT


class FileProblem(BadInput):
    """A file that is missing, truncated, corrupt, unreadable or unwritable."""


class DiskFull(FileProblem):
    """A full disk or an exhausted quota.

    Args:
        needed: bytes that were about to be written; 0 if unknown.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None, needed: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed


class MemoryTooSmall(BadInput):
    """A scan that needs more memory than may be used."""

    exit_code = EXIT_FAILED


class GeometryMismatch(BadInput):
    """Two volumes that should have the same grid but differ."""


class ConfigError(BadInput):
    """A run file or option with an unknown key or an invalid value."""


class NameClash(BadInput):
    """A name that two plugins or two zoo entries claim."""


class PluginError(BadInput):
    """A plugin that raises, returns something of the wrong type, or is of another version than a model needs."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        hint = hint or "Tell its author, or uninstall it; --debug shows the traceback."
        super().__init__(message, hint=hint)


class CtsegWarning(UserWarning):
    """What may make a result wrong, told where no error keeps it from being made."""


class CorruptWeights(BadInput):
    """Weights whose checksum, header or tensors do not match the card."""


class UnknownName(BadInput, LookupError):
    """An unknown name.

    Args:
        kind: what the name stands for, e.g. "architecture".
        name: the unknown name.
        known: all known names.
        listing: the command that lists them.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, listing: str | None = None
    ) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        near = nearest(name, self.known)
        message = f"Unknown {kind} '{name}'." + (f" Did you mean '{near}'?" if near else "")
        if not self.known:
            hint = f"No {kind} is available."
        elif len(self.known) <= 12:
            hint = f"Available: {', '.join(self.known)}"
        else:
            hint = f"{len(self.known)} are available."
        if listing:
            hint += f"  (see: {listing})"
        super().__init__(message, hint=hint)


class RunFailed(CtsegError):
    """A run that started but could not be completed."""


class OutOfMemory(RunFailed, MemoryError):
    """Too little memory for an allocation; the message says for what."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to `name`; None if none is similar."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.55)
    return matches[0] if matches else None


def first_line(error: BaseException) -> str:
    """What a library's error says, without the traces and values that some append to it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _on_one_line(message: str) -> str:
    """A message that any terminal shows on one line, whatever a damaged file put into it."""
    return message.translate(_CONTROLS).encode(errors="backslashreplace").decode()
