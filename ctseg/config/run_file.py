"""Reads and writes run files: TOML in, resolved TOML out, every key checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ctseg.config.checking import validate
from ctseg.config.run import LENGTHS, RunConfig
from ctseg.config.settings import apply_settings, read_toml
from ctseg.errors import ConfigError


def load_config(path: Path) -> RunConfig:
    """Read a run file.

    Raises:
        FileProblem: the file is missing or no TOML.
        ConfigError: an unknown key (with the nearest valid one) or an impossible value.
    """
    data = read_toml(path, "run file")
    return parse_config(data, where=str(path))


def parse_config(data: Mapping[str, Any], *, where: str = "the run file") -> RunConfig:
    """Check plain data against the schema."""
    return validate(RunConfig, data, where=where)


def dump_config(config: RunConfig) -> str:
    """The configuration as TOML; what is None is left out, since TOML has no null.

    Raises:
        ConfigError: a text that is no UTF-8, such as the name of a file in another encoding.
    """
    import tomli_w

    data = config.model_dump(mode="json")
    if config.train.clip_grad is None:  # left out it would be the default again
        data["train"]["clip_grad"] = math.inf
    text = tomli_w.dumps(_without_none(data))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"A run file cannot hold {error.object[max(error.start - 40, 0) : error.end]!r}: it is no UTF-8.",
            hint="Is it the name of a folder or file? Rename it.",
        ) from error
    return text


def override(config: RunConfig, settings: Iterable[str]) -> RunConfig:
    """Apply `section.key=value` settings; values are TOML, bare words are strings, `null` unsets.

    A length of the training (`train.steps`, `train.epochs`, `train.time`) takes the place of the one that was there.

    Raises:
        ConfigError: a setting without `=`, an unknown key, or an impossible value.
    """
    data, settings = config.model_dump(mode="json"), list(settings)
    named = {k.strip(): v.strip() for k, _, v in (setting.partition("=") for setting in settings)}
    if "augment.preset" in named:
        data["augment"] = {}  # another preset starts the section anew
    if any(named.get(f"train.{name}", "null").lower() != "null" for name in LENGTHS):
        data["train"] |= dict.fromkeys(LENGTHS)
    apply_settings(data, settings, example="train.epochs=50")
    return parse_config(data, where="--set")


def with_length(config: RunConfig, length: Mapping[str, Any]) -> RunConfig:
    """The configuration with another length of training in the place of its own.

    Args:
        length: one of `steps`, `epochs` and `time`.

    Raises:
        ConfigError: none or several of them, or an impossible value.
    """
    if len(length) != 1 or not set(length) <= set(LENGTHS):
        raise ConfigError(
            f"A new length of the training is one of steps, epochs and time, not {', '.join(length) or 'none'}.",
            hint="For example: ctseg train --resume runs/NAME --extend --steps 9000",
        )
    data = config.model_dump(mode="json")
    data["train"] |= dict.fromkeys(LENGTHS) | dict(length)
    return parse_config(data, where="the new length")


def _without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _without_none(v) for k, v in data.items() if v is not None}
    return [_without_none(v) for v in data] if isinstance(data, list) else data
