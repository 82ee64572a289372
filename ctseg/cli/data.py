"""`ctseg data`: data sets and scans. Each command has a file of its own."""

from __future__ import annotations

import typer

from ctseg.cli import data_convert, data_inspect, data_prepare, ui

app = typer.Typer(
    no_args_is_help=True, help="Data sets and scans: look at them, convert and prepare them."
)


@app.callback()
def data() -> None:
    """Data sets and scans: look at them, convert and prepare them."""


app.command("convert", epilog=ui.examples(*data_convert.EXAMPLES))(data_convert.convert)
app.command("inspect", epilog=ui.examples(*data_inspect.EXAMPLES))(data_inspect.inspect)
app.command("prepare", epilog=ui.examples(*data_prepare.EXAMPLES))(data_prepare.prepare)
