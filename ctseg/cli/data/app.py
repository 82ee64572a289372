"""`ctseg data`: the group of commands for data sets and scans."""

from __future__ import annotations

import typer

from ctseg.cli import ui
from ctseg.cli.data import convert, inspect, prepare

app = typer.Typer(no_args_is_help=True, help="Data sets and scans: inspect, convert, prepare.")


@app.callback()
def data() -> None:
    """Data sets and scans: inspect, convert, prepare."""


app.command("convert", epilog=ui.examples(*convert.EXAMPLES))(convert.convert)
app.command("inspect", epilog=ui.examples(*inspect.EXAMPLES))(inspect.inspect)
app.command("prepare", epilog=ui.examples(*prepare.EXAMPLES))(prepare.prepare)
