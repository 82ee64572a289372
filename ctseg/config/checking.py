"""Plain data checked against pydantic models and dataclasses; what is wrong is said in plain words."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import pydantic
from pydantic import BaseModel

from ctseg.errors import ConfigError, nearest

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)
MOST_NESTED = 100
"""Levels of tables and lists; pydantic and Python give up at some hundreds."""
SHOWN = 200
"""A message repeats so many characters of a wrong value at most."""


def parse_json(text: str | bytes, *, finite: bool = True, unique: bool = False) -> Any:
    """JSON from a file that anybody may have made.

    Args:
        finite: refuse NaN and infinity, which Python's module reads and JSON does not have.
        unique: refuse a key that a table has twice, of which other readers may take the other one.

    Raises:
        ValueError: it is none, or nested more than a hundred times.
    """
    try:
        strict: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _finite}
        options = strict if finite else {}
        if unique:
            options["object_pairs_hook"] = _once
        content = json.loads(text, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [content]
    for _ in range(MOST_NESTED):
        level = [inner for node in level if (inside := _inside(node)) for inner in inside]
        if not level:
            return content
    raise ValueError("it is nested too deeply")


def _inside(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice in one table")
    return table


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def validate(model: type[Model], data: Any, *, where: str) -> Model:
    """Check plain data against a pydantic model; the first problem becomes a `ConfigError` in plain words."""
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        raise _explained(model, error, where) from error


def _explained(model: type[BaseModel], error: pydantic.ValidationError, where: str) -> ConfigError:
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(model, location[:-1])
        near = nearest(location[-1], valid)
        message = f"Unknown key '{key}' in {where}."
        if near:
            message += f" Did you mean '{'.'.join([*location[:-1], near])}'?"
        return ConfigError(message, hint=f"Valid keys there: {', '.join(sorted(valid))}")
    if problem["type"] == "missing":
        return ConfigError(f"'{key}' is missing in {where}.", hint=f"Add it: {key} = ...")
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error" and isinstance(problem["input"], Mapping):
        place = f"'{key}' in {where}" if key else where  # a table would fill the screen
        return ConfigError(f"{place}: {reason}.")
    return ConfigError(f"'{key}' in {where} cannot be {_shown(problem['input'])}: {reason}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _valid_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        if part not in model.model_fields:  # a list index stays at the model of its items
            continue
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _model_in(argument)
        if found:
            return found
    return None


def fill_dataclass(cls: type[T], options: Mapping[str, Any], *, owner: str) -> T:
    """A config dataclass filled from options, each checked against its field's declared type.

    Args:
        owner: the name of the network, loss or step, for messages.

    Raises:
        ConfigError: an option that does not exist (with the nearest one), or a value of the wrong type.
    """
    known = {f.name for f in dataclasses.fields(typing.cast(Any, cls)) if f.init}
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # a type that the plugin imports only for type checking
        hints = {}
    values = {}
    for key, value in options.items():
        if key not in known:
            near = nearest(key, known)
            raise ConfigError(
                f"'{owner}' has no option '{key}'." + (f" Did you mean '{near}'?" if near else ""),
                hint=f"Its options: {', '.join(sorted(known)) or 'none'}",
            )
        try:
            values[key] = pydantic.TypeAdapter(hints.get(key, Any)).validate_python(value)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ConfigError(
                f"Option '{key}' of '{owner}' cannot be {_shown(value)}: {reason}."
            ) from error
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"The options of '{owner}' do not fit: {error}.") from error
