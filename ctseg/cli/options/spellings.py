"""Old spellings of options: hidden from help but still accepted, with a warning that names the new one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from typer.core import TyperCommand

from ctseg.cli import ui

VALUE = "{}"
"""Placeholder for the value in a new spelling; a spelling without it replaces a flag."""


def respelled(old: Mapping[str, str]) -> type[TyperCommand]:
    """A command class that accepts old spellings of its options.

    Args:
        old: new spellings by old ones, e.g. `{"--instances": "--instance-ids", "--seed": "--set seed={}"}`.
    """

    class Respelled(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            quiet = bool(ctx.resilient_parsing)  # shell completion
            return super().parse_args(ctx, list(_translated(self, args, old, quiet=quiet)))

    return Respelled


def _translated(
    command: TyperCommand, args: list[str], old: Mapping[str, str], *, quiet: bool
) -> Iterator[str]:
    valued = {
        name
        for option in command.params
        if option.param_type_name == "option" and not getattr(option, "is_flag", False)
        for name in option.opts
    }
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            yield word
            yield from words
        elif name not in old:
            yield word
            if word in valued:  # the next word is its value, even if it looks like an option
                yield from _one(words)
        elif VALUE not in old[name]:
            _warn(name, old[name], quiet=quiet)
            yield old[name] + equals + value
        else:
            given = [value] if equals else list(_one(words))
            if not given:  # Typer reports the missing value
                yield from old[name].split(" ")[:1]
                return
            _warn(name, old[name].replace(VALUE, given[0]), quiet=quiet)
            text = given[0]
            if old[name].startswith("--set "):  # quoted, so that it stays a string
                text = json.dumps(text, ensure_ascii=False)
            yield from (word.replace(VALUE, text) for word in old[name].split(" ", 1))


def _one(words: Iterator[str]) -> Iterator[str]:
    word = next(words, None)
    if word is not None:
        yield word


def _warn(name: str, new: str, *, quiet: bool) -> None:
    if not quiet:
        ui.warn(f"{name} is an old spelling; write {new}")
