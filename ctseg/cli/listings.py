"""What the listings of networks and losses share."""

from __future__ import annotations

import dataclasses
import fnmatch
import typing
from collections.abc import Callable
from typing import Any

from ctseg import plugins
from ctseg.cli import ui

SHOWN = 60
"""Longest default value, in characters, that a table shows in full."""


def matching(kind: plugins.Kind, pattern: str) -> list[plugins.Registered]:
    """The registered specs of one kind whose names match a shell pattern, sorted by name."""
    table = plugins.registry().table(kind)
    return [table[name] for name in sorted(fnmatch.filter(table, pattern))]


def provider(plugin: plugins.PluginInfo) -> str:
    """The package and version that a spec comes from."""
    return f"{plugin.package} {plugin.version}".strip()


def options(config: type) -> list[dict[str, Any]]:
    """Name, type, default and meaning of each option of a config dataclass."""
    try:
        hints = typing.get_type_hints(config)
    except NameError:  # a type that the plugin imports only for type checking
        hints = {}
    return [
        {
            "name": option.name,
            "type": _type_name(hints.get(option.name, option.type)),
            "default": _default(option),
            "help": str(option.metadata.get("help", "")),
        }
        for option in dataclasses.fields(config)
        if option.init
    ]


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _default(option: dataclasses.Field[Any]) -> Any:
    if option.default is not dataclasses.MISSING:
        return option.default
    return None if option.default_factory is dataclasses.MISSING else option.default_factory()


def show_options(rows: list[dict[str, Any]]) -> None:
    """Print the options as a table."""
    if not rows:
        ui.show("It has no options.")
        return
    cells = [(row["name"], row["type"], _short(row["default"]), row["help"]) for row in rows]
    titles = ("option", "type", "default", "meaning")
    ui.table(titles, cells, prose=titles[1:])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def list_specs(
    kind: plugins.Kind,
    pattern: str,
    row: Callable[[plugins.Registered], dict[str, Any]],
    *,
    as_json: bool,
) -> None:
    """Print the matching specs of one kind, or a message on stderr if none matches."""
    rows = [row(entry) for entry in matching(kind, pattern)]
    if as_json:
        ui.print_json(rows)
    elif rows:
        cells = [[_cell(value) for value in entry.values()] for entry in rows]
        ui.table(tuple(rows[0]), cells, prose=("summary", "tasks"))
    else:
        known = ", ".join(plugins.names(kind))
        ui.say(f"No {kind} matches '{pattern}'. Available: {known or 'none'}")
    warn_of_broken()


def _cell(value: Any) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def warn_of_broken() -> None:
    """Warn on stderr about plugins that failed to load, since their names are missing from the list."""
    for plugin in plugins.registry().plugins:
        if plugin.error:
            ui.warn(
                f"{plugin.package} could not be loaded: {plugin.error} (see: ctseg plugins list)"
            )
