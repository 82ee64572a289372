"""`KEY=VALUE` settings and TOML files of them, checked against a model: what every `--set` shares."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from ctseg.config.checking import validate
from ctseg.errors import ConfigError, FileProblem

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The contents of a TOML file.

    Args:
        what: the kind of file, for messages.

    Raises:
        FileProblem: the file is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows marks UTF-8 so
    except OSError as error:
        raise FileProblem(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # TOML, UTF-8, or absurdly nested
        raise FileProblem(f"The {what} {path} is not valid TOML: {error}.") from error


def split_setting(setting: str, *, example: str) -> tuple[str, str]:
    """The key and the text of the value of `KEY=VALUE`.

    Raises:
        ConfigError: there is no `=`, or nothing before it.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"'--set {setting}' is not KEY=VALUE.", hint=f"For example: --set {example}"
        )
    return key.strip(), text.strip()


def apply_settings(data: dict[str, Any], settings: Iterable[str], *, example: str) -> None:
    """Put `section.key=value` settings into plain data; values are TOML, bare words are strings, `null` unsets.

    Raises:
        ConfigError: a setting without `=`, or a key below one that holds a value.
    """
    for setting in settings:
        key, text = split_setting(setting, example=example)
        _place(data, key.split("."), _toml_value(text))


def read_settings(
    model: type[Model], settings: Iterable[str], file: Path | None, *, example: str
) -> Model:
    """The settings of a command: those of a TOML file, with the ones of the command line on top.

    Raises:
        FileProblem: the file is missing or no TOML.
        ConfigError: an unknown key (with the nearest valid one) or an impossible value.
    """
    data = {} if file is None else read_toml(file, "file of settings")
    if file is not None:
        validate(model, data, where=str(file))
    apply_settings(data, settings, example=example)
    return validate(model, data, where="--set")


def _place(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        if inner is None:
            inner = data[key] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"'{'.'.join(keys)}' is no setting: '{key}' holds a value.")
        data = inner
    data[keys[-1]] = value


def _toml_value(text: str) -> Any:
    if text.lower() == "null":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
