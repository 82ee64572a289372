"""`ctseg plugins`: lists plugins, with errors of those that failed to load."""

from __future__ import annotations

from typing import Any

import typer

from ctseg import plugins
from ctseg.cli import ui

app = typer.Typer(no_args_is_help=True, help="Packages that extend ctseg: list.")


@app.callback()
def group() -> None:
    """Packages that extend ctseg: list."""


@app.command("list", epilog=ui.examples("ctseg plugins list", "ctseg plugins list --json"))
def list_(as_json: ui.JsonOption = False) -> None:
    """List plugins and what each provides, with the error of any that failed to load.

    `--json` also prints the traceback of the error.
    """
    registry = plugins.registry()
    for kind in plugins.LISTINGS:  # run all hooks, to report those that raise
        registry.entries(kind)
    registry.zoos()
    rows = [_row(registry, info) for info in registry.plugins]
    if as_json:
        ui.print_json(rows)
        return
    ui.table(
        ("name", "package", "version", "provides"),
        [(row["name"], row["package"], row["version"], _provides(row)) for row in rows],
        prose=("provides",),
    )
    for row in rows:
        if row["error"]:
            ui.show()
            used = "used in full" if row["provides"] else "used"
            ui.show(f"{row['package']} could not be {used}: {row['error']}")
            ui.show("  Show the traceback: ctseg plugins list --json")


def _row(registry: plugins.Registry, info: plugins.PluginInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "package": info.package,
        "version": info.version,
        "module": info.module,
        "provides": {kind: names for kind, names in registry.provided_by(info).items() if names},
        "error": info.error,
        "details": info.details,
    }


def _provides(row: dict[str, Any]) -> str:
    if row["error"] and not row["provides"]:
        return "nothing: it could not be used"
    parts = [
        f"{len(names)} {kind if len(names) == 1 else _plural(kind)}"
        for kind, names in row["provides"].items()
    ]
    return ", ".join(parts) or "nothing"


def _plural(kind: str) -> str:
    return "losses" if kind == "loss" else f"{kind}s"
