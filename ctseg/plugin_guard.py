"""What a plugin's functions raise or return, told with the name of the plugin."""

from __future__ import annotations

import errno
import functools
import numbers
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from ctseg.errors import CtsegError, CtsegWarning, PluginError
from ctseg.specs import Constraints, DataSet

Type = type | UnionType
RESULTS: Mapping[str, Type] = {
    "constraints": Constraints,
    "cases": DataSet,
    "measure": numbers.Real | NoneType,
}
"""What functions of a spec must return, where nobody looks at it afterwards."""
Fail = Callable[[BaseException], None]


def check_contract(plugin: Any, contract: str) -> None:
    """Refuse a plugin that declares other versions of the contract, as `ctseg_contract = ">=1,<2"` in its module.

    Raises:
        PluginError: the range does not hold this version, or is none.
    """
    declared = getattr(plugin, "ctseg_contract", None)
    if declared is None:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = SpecifierSet(declared).contains(contract)
    except (InvalidSpecifier, AttributeError, TypeError):
        raise PluginError(
            f"its ctseg_contract is {declared!r}, which is no range of versions such as '>=1,<2'"
        ) from None
    if not fits:
        raise PluginError(
            f"it was written for versions {declared} of ctseg's plugin contract, and this ctseg has {contract}: "
            "install another version of the plugin or of ctseg"
        )


def guarded(kind: str, spec: Any, owner: str, fail: Fail) -> Any:
    """The spec of a plugin, whose functions name the plugin where they raise or return something else.

    Args:
        kind: e.g. `architecture`.
        owner: the plugin's package and version.
        fail: told of what keeps the plugin from being asked.
    """
    changes = {}
    for field in fields(spec):
        function = getattr(spec, field.name)
        if field.name == "config" or not callable(function):
            continue
        what = f"`{field.name}` of the {kind} '{spec.name}' from the plugin {owner}"
        if field.name == "recognise":
            changes[field.name] = _asked(function, what, fail)
            continue
        due = spec.config if field.name == "from_plan" else RESULTS.get(field.name)
        changes[field.name] = named(function, what, due)
    return replace(spec, **changes)


def _asked(function: Callable[..., Any], what: str, fail: Fail) -> Callable[..., bool]:
    """A `recognise` that says no where it raises, so that the other readers and formats are asked."""

    @functools.wraps(function)
    def recognise(*args: Any, **kwargs: Any) -> bool:
        try:
            return bool(function(*args, **kwargs))
        except CtsegError:
            raise
        except Exception as error:
            fail(error)
            warnings.warn(CtsegWarning(f"{what} raised {text_of(error)}."), stacklevel=2)
            return False

    return recognise


def named(function: Callable[..., Any], what: str, due: Type | None) -> Callable[..., Any]:
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
            wanted = getattr(due, "__name__", "a number or None")
            raise PluginError(f"{what} returned {type(result).__name__}, not {wanted}.")
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
