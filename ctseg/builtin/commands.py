"""The commands of ctseg itself, registered so that no plugin takes one of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ctseg.extension_specs import CommandSpec
from ctseg.hookspecs import hookimpl

COMMANDS = {
    "demo": "train, publish, predict and evaluate on phantoms",
    "plan": "plan a training",
    "train": "train a network",
    "predict": "predict scans",
    "evaluate": "compare predictions with references",
    "compare": "rank runs, and test their differences",
    "statistics": "measure the labels of a mask",
    "view": "show a scan and label maps in a browser",
    "render": "draw pictures, films and meshes of label maps",
    "doctor": "check the installation",
    "data": "inspect, convert and prepare data",
    "zoo": "published models",
    "architectures": "networks",
    "losses": "losses",
    "plugins": "packages that extend ctseg",
}


def _load(name: str) -> Callable[[], Any]:
    def load() -> Any:
        from typer.main import get_command

        from ctseg.cli.app import app

        return getattr(get_command(app), "commands")[name]  # noqa: B009 - of a group, which Typer hides

    return load


@hookimpl
def ctseg_commands() -> Sequence[CommandSpec]:
    """The commands of ctseg."""
    return [CommandSpec(name, _load(name), summary) for name, summary in COMMANDS.items()]
