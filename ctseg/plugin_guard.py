"""What a plugin's functions raise or return, told with the name of the plugin."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctseg.errors import CtsegError, PluginError


def named(function: Callable[..., Any], what: str, due: type | None) -> Callable[..., Any]:
    """A function of a plugin; what it raises names the plugin.

    Args:
        due: the type that it must return.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            if isinstance(error, CtsegError) or of_the_machine(error):
                raise
            where = next((f" on {arg}" for arg in args if isinstance(arg, Path)), "")
            raise PluginError(f"{what} raised {text_of(error)}{where}.") from error
        if due is not None and not isinstance(result, due):
            raise PluginError(f"{what} returned {type(result).__name__}, not {due.__name__}.")
        return result

    return call


def of_the_machine(error: Exception) -> bool:
    """Whether memory, disk or permissions are the cause, which have messages of their own."""
    full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return (
        isinstance(error, MemoryError | PermissionError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno in full)
    )


def text_of(error: BaseException) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")
