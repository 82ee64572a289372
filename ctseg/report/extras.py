"""Imports packages that are installed with an extra of ctseg."""

from __future__ import annotations

import importlib
from typing import Any

from ctseg.errors import BadInput


def optional(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: e.g. `skimage.measure`.
        extra: name of the extra that installs it.

    Raises:
        BadInput: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module.partition(".")[0], extra) from error


def missing(package: str, extra: str) -> BadInput:
    """The error about an optional package that cannot be imported."""
    return BadInput(
        f"The package {package} is not installed.",
        hint=f"Install it: pip install 'ctseg[{extra}]'",
    )
