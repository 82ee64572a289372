"""`ctseg data`: the group of commands for data sets and scans."""

from __future__ import annotations

import typer

from ctseg.cli import data_convert, data_inspect, data_prepare, ui

app = typer.Typer(no_args_is_help=True, help="Data sets and scans: inspect, convert, prepare.")


@app.callback()
def data() -> None:
    """Data sets and scans: inspect, convert, prepare."""


app.command("convert", epilog=ui.examples(*data_convert.EXAMPLES))(data_convert.convert)
app.command("inspect", epilog=ui.examples(*data_inspect.EXAMPLES))(data_inspect.inspect)
app.command("prepare", epilog=ui.examples(*data_prepare.EXAMPLES))(data_prepare.prepare)
