"""`ctseg losses`: losses that can be trained with by name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ctseg import plugins
from ctseg.cli import listings, ui
from ctseg.cli.options import completion

app = typer.Typer(no_args_is_help=True, help="Losses that can be trained with by name: list, show.")


@app.command("list", epilog=ui.examples("ctseg losses list", "ctseg losses list 'dice*' --json"))
def list_(
    pattern: Annotated[str, typer.Argument(help="Names with wildcards, e.g. 'dice*'.")] = "*",
    as_json: ui.JsonOption = False,
) -> None:
    """List losses, built-in and from plugins."""
    listings.list_specs("loss", pattern, _row, as_json=as_json)


def _row(entry: plugins.Registered) -> dict[str, Any]:
    return {
        "name": entry.spec.name,
        "tasks": sorted(entry.spec.tasks),
        "summary": entry.spec.summary,
        "package": listings.provider(entry.plugin),
    }


@app.command(
    epilog=ui.examples(
        "ctseg losses show dice_ce", "ctseg train DATA --loss dice_ce --set loss.options.batch=true"
    )
)
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of a loss (see: ctseg losses list).", autocompletion=completion.losses
        ),
    ],
    as_json: ui.JsonOption = False,
) -> None:
    """Show the options of a loss and the tasks that it supports."""
    entry = plugins.registry().get("loss", name)
    spec = entry.spec
    result = {
        "name": spec.name,
        "summary": spec.summary,
        "reference": spec.reference,
        "tasks": sorted(spec.tasks),
        "package": entry.plugin.package,
        "version": entry.plugin.version,
        "plugin": entry.plugin.name,
        "module": entry.plugin.module,
        "options": listings.options(spec.config),
    }
    if as_json:
        ui.print_json(result)
        return
    ui.show(f"{spec.name}: {spec.summary}")
    if spec.reference:
        ui.show(f"  {spec.reference}")
    ui.show(f"  from {listings.provider(entry.plugin)} ({entry.plugin.module})")
    ui.show(f"  for tasks of the kind {', '.join(result['tasks'])}")
    ui.show("  change an option with --set loss.options.NAME=VALUE")
    ui.show()
    listings.show_options(result["options"])
