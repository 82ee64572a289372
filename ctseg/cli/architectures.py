"""`ctseg architectures`: networks that can be trained by name."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from ctseg import plugins
from ctseg.cli import specs, ui

app = typer.Typer(no_args_is_help=True, help="Networks that can be trained by name: list, show.")


@app.command(
    "list", epilog=ui.examples("ctseg architectures list", "ctseg architectures list '*unet*'")
)
def list_(
    pattern: Annotated[str, typer.Argument(help="Names with wildcards, e.g. '*unet*'.")] = "*",
    as_json: ui.JsonOption = False,
) -> None:
    """List networks, in the box and from plugins."""
    specs.list_specs("architecture", pattern, _row, as_json=as_json)


def _row(entry: plugins.Registered) -> dict[str, Any]:
    return {
        "name": entry.spec.name,
        "summary": entry.spec.summary,
        "package": specs.provider(entry.plugin),
    }


@app.command(
    epilog=ui.examples(
        "ctseg architectures show unet3d",
        "ctseg train DATA -a unet3d --set model.options.features=[16,32,64]",
    )
)
def show(
    name: Annotated[str, typer.Argument(help="Name of a network (see: ctseg architectures list).")],
    as_json: ui.JsonOption = False,
) -> None:
    """Show a network's options, size and demands on patches.

    Parameters and constraints are those of the default options, for 1 image channel and 2 outputs.
    """
    entry = plugins.registry().get("architecture", name)
    spec = entry.spec
    config = spec.config()
    constraints = dataclasses.asdict(spec.constraints_for(config))
    network = spec.build(config, in_channels=1, out_channels=2)
    result = {
        "name": spec.name,
        "summary": spec.summary,
        "reference": spec.reference,
        "package": entry.plugin.package,
        "version": entry.plugin.version,
        "plugin": entry.plugin.name,
        "module": entry.plugin.module,
        "parameters": sum(p.numel() for p in network.parameters()),
        "from_plan": spec.from_plan is not None,
        "constraints": constraints,
        "options": specs.options(spec.config),
    }
    if as_json:
        ui.print_json(result)
        return
    ui.show(f"{spec.name}: {spec.summary}")
    if spec.reference:
        ui.show(f"  {spec.reference}")
    ui.show(f"  from {specs.provider(entry.plugin)} ({entry.plugin.module})")
    ui.show(f"  {result['parameters']:,} parameters (1 image channel, 2 outputs, default options)")
    stride, smallest = constraints["stride_zyx"], constraints["min_tile_zyx"]
    fixed = constraints["fixed_tile_zyx"]
    ui.show(
        f"  patches (z, y, x): exactly {fixed}"
        if fixed
        else f"  patches (z, y, x): multiples of {stride}, at least {smallest}"
    )
    adapts = "options are fitted to the data set" if spec.from_plan else "options stay as given"
    ui.show(f"  {adapts}; change one with --set model.options.NAME=VALUE")
    ui.show()
    specs.show_options(result["options"])
