"""Commands that plugins add; one is imported only when it runs, so that `ctseg --help` stays fast."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ctseg import plugins
from ctseg.errors import PluginError


class Stub(TyperCommand):
    """A command of a plugin as `ctseg --help` lists it."""

    def load(self) -> Any:
        """The command itself.

        Raises:
            NameClash: two plugins claim the name.
            PluginError: the plugin returned no command.
        """
        entry = plugins.registry().get("command", str(self.name))
        found = entry.spec.load()
        if callable(found) and not isinstance(found, typer.Typer | TyperCommand | TyperGroup):
            app = typer.Typer(pretty_exceptions_enable=False)
            app.command(self.name)(found)
            found = app
        if isinstance(found, typer.Typer):
            found = get_command(found)
        if not isinstance(found, TyperCommand | TyperGroup):
            raise PluginError(
                f"The command '{self.name}' from the plugin {entry.plugin.owner} is "
                f"{type(found).__name__}, not a function or a Typer application."
            )
        found.name = self.name
        found.params = [p for p in found.params if "--install-completion" not in p.opts]
        found.params = [p for p in found.params if "--show-completion" not in p.opts]
        return found


def names(built_in: Container[str]) -> list[str]:
    """The commands of plugins."""
    return [name for name in plugins.registry().entries("command") if name not in built_in]


def stub(name: str) -> Stub | None:
    """The command of a plugin, not yet loaded; None if there is none of that name."""
    entry = plugins.registry().entries("command").get(name)
    return None if entry is None else Stub(name, help=entry.spec.summary)
