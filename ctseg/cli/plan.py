"""`ctseg plan`: plans a training without starting it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.train import configure
from ctseg.errors import BadInput

EXAMPLES = (
    "ctseg plan DATA --time 2h -o run.toml",
    "ctseg plan DATA --time 12h --device cuda --memory 24G",
    "ctseg plan DATA --time 2h --set train.preset=fast --set data.fold=1",
)


def plan(
    source: Annotated[
        Path | None,
        typer.Argument(help="Data set, or run file (.toml).", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Run file to write; else it is printed."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the run file."),
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="20m", help="Time for the whole run.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE", help="Device; it may be in another machine."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="Memory of the device; by default the free."),
    ] = None,
) -> None:
    """Plan a training: a run file with a reason for each choice."""
    from ctseg.config import LENGTHS
    from ctseg.engine.training.planned import plan_file
    from ctseg.files import check_replaceable, write_text

    if output is not None:
        check_replaceable(output)
        if output.exists():
            raise BadInput(f"{output} exists already.", hint="Choose another file, or remove it.")
    given = {"train.time": time, "train.device": device, "train.memory": memory}
    config = configure(source, given, settings or [], any_length=True)
    with ui.progress("Planning") as bar:
        planned, text = plan_file(config, bar)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    ui.show(f"{output}: {planned.document['choices']['size']['reason']}")
    if "first_stage" in planned.document["choices"]:
        stage = planned.document["choices"]["first_stage"]
        ui.show(f"First stage {'off' if stage['value'] == 'off' else 'on'}: {stage['reason']}")
    length = "" if any(getattr(config.train, name) for name in LENGTHS) else " --time 30m"
    ui.show(f"Next: ctseg train {output} -o runs/NAME{length}")
