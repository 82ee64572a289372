"""Rare settings of a command: `--set KEY=VALUE`, a TOML file of settings, and the list of keys."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import ui

if TYPE_CHECKING:
    from pydantic import BaseModel

PANEL = "More"
LIST = "list"
MODELS: Mapping[str, str] = MappingProxyType(
    {"predict": "PredictOptions", "evaluate": "EvaluateOptions"}
)
"""Names of the settings models in `ctseg.config.commands`, by command."""


def model_of(command: str) -> type[BaseModel]:
    """The model that checks the settings of a command."""
    model: type[BaseModel] = getattr(
        importlib.import_module("ctseg.config.commands"), MODELS[command]
    )
    return model


def describe(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Key, default and meaning of each setting."""
    return [
        (name, _default(field.default), field.description or "")
        for name, field in model.model_fields.items()
    ]


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_default, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _list(context: typer.Context, values: list[str] | None) -> list[str] | None:
    """Print the keys for `--set list`; pass other values on to the command."""
    if LIST in (values or []) and not context.resilient_parsing:
        rows = describe(model_of(context.info_name or ""))
        ui.table(("key", "default", "meaning"), rows, prose=("meaning",))
        raise typer.Exit()
    return values


SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        callback=_list,
        help=f"Rarer setting; --set {LIST} prints them.",
        rich_help_panel=PANEL,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file of rarer settings.", rich_help_panel=PANEL
    ),
]
