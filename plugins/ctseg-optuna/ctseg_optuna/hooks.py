"""The command that this package registers with ctseg."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import ctseg
from ctseg.extension_specs import CommandSpec


def _command() -> Callable[..., Any]:
    module = importlib.import_module("ctseg_optuna.command")
    return cast("Callable[..., Any]", module.tune)


@ctseg.hookimpl
def ctseg_commands() -> Sequence[CommandSpec]:
    """`ctseg tune`."""
    return [CommandSpec("tune", _command, "Search for better settings of a training.")]
