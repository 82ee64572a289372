"""The errors that ctseg raises on purpose: each says what was found, what was expected, and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: everything that is left in order on Ctrl-C is so then, too."""


class CtsegError(Exception):
    """Base of every error that ctseg raises on purpose.

    Args:
        message: what was found and what was expected, in one sentence.
        hint: the command or option that mends it, or what to look at.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


class BadInput(CtsegError, ValueError):
    """A file, folder, array or option that cannot be used as it is."""

    exit_code = EXIT_BAD_INPUT


class FileProblem(BadInput):
    """A file that is missing, truncated, corrupt, unreadable or unwritable."""


class DiskFull(FileProblem):
    """A disk or a quota that has no room for what is to be written.

    Args:
        needed: bytes for which room was asked beforehand; 0 where it ran out while writing.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None, needed: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed


class MemoryTooSmall(BadInput):
    """A scan for which the memory that may be used does not suffice."""

    exit_code = EXIT_FAILED


class GeometryMismatch(BadInput):
    """Two volumes that should lie on the same grid and do not."""


class ConfigError(BadInput):
    """A run file or option with a misspelt key or an impossible value."""


class NameClash(BadInput):
    """One name claimed by two plugins, or by two zoo entries."""


class PluginError(BadInput):
    """A plugin that raises, returns something else than is due, or is of another version than a model needs."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        hint = hint or "Tell its author, or uninstall it; --debug shows the traceback."
        super().__init__(message, hint=hint)


class CtsegWarning(UserWarning):
    """What may make a result wrong, told where no error keeps it from being made."""


class CorruptWeights(BadInput):
    """Weights whose checksum, header or tensors are not what the card says."""


class UnknownName(BadInput, LookupError):
    """A name that nothing registered answers to.

    Args:
        kind: what was looked for, e.g. "architecture".
        name: what was asked for.
        known: every name that would have been accepted.
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
    """A run that started well and could not be finished."""


class OutOfMemory(RunFailed, MemoryError):
    """Something that the memory did not hold, by name."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None where none is near."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.55)
    return matches[0] if matches else None
