"""Checks that all kinds of plugins have in common."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ctseg.config.checking import fill_dataclass


def require(condition: object, message: str) -> None:
    """Fail with a message; unlike `assert` it also works under `python -O`."""
    if not condition:
        raise AssertionError(message)


def check_options(name: str, config: type) -> None:
    """Check that options have defaults and help texts, and survive JSON, which run files and cards need."""
    try:
        default = config()
    except TypeError as error:
        raise AssertionError(f"{name}: every option needs a default ({error})") from error
    for option in dataclasses.fields(default):
        require(
            option.metadata.get("help"),
            f"{name}: option '{option.name}' has no field(metadata={{'help': ...}})",
        )
    again: Any = fill_dataclass(
        config, json.loads(json.dumps(dataclasses.asdict(default))), owner=name
    )
    require(again == default, f"{name}: options change in a round trip through JSON: {again}")
