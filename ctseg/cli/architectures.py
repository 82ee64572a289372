"""`ctseg architectures`: networks that can be trained by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg import plugins
from ctseg.cli import listings, ui
from ctseg.cli.options import axes, completion
from ctseg.errors import BadInput, ConfigError
from ctseg.specs import Constraints

if TYPE_CHECKING:
    import torch

app = typer.Typer(no_args_is_help=True, help="Networks that can be trained by name: list, show.")


@app.command(
    "list", epilog=ui.examples("ctseg architectures list", "ctseg architectures list '*unet*'")
)
def list_(
    pattern: Annotated[str, typer.Argument(help="Names with wildcards, e.g. '*unet*'.")] = "*",
    as_json: ui.JsonOption = False,
) -> None:
    """List networks, built-in and from plugins."""
    listings.list_specs("architecture", pattern, _row, as_json=as_json)


def _row(entry: plugins.Registered) -> dict[str, Any]:
    return {
        "name": entry.spec.name,
        "summary": entry.spec.summary,
        "package": listings.provider(entry.plugin),
    }


@app.command(
    epilog=ui.examples(
        "ctseg architectures show unet3d",
        "ctseg architectures show unet3d --patch 96,96,96 --set features=[32,64,128,256,320]",
        "ctseg train DATA -a unet3d --set model.options.features=[16,32,64]",
    )
)
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of a network (see: ctseg architectures list).",
            autocompletion=completion.architectures,
        ),
    ],
    patch: Annotated[
        str | None,
        typer.Option("--patch", metavar=axes.ZYX, help="Patch in voxels, to show its cost."),
    ] = None,
    in_channels: Annotated[
        int, typer.Option("--in-channels", min=1, metavar="N", help="Number of image channels.")
    ] = 1,
    out_channels: Annotated[
        int, typer.Option("--out-channels", min=1, metavar="N", help="Number of outputs.")
    ] = 2,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Option of the network."),
    ] = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Show a network's options, size and patch constraints; with --patch also its operations and memory.

    Options without --set have their defaults. Memory is that of float32 tensors for one patch, without weights and
    without the workspace of convolutions; bfloat16 takes a little more than half.
    """
    entry = plugins.registry().get("architecture", name)
    spec = entry.spec
    config = plugins.make_config(spec, _options(settings or []))
    constraints = spec.constraints_for(config)

    def build() -> torch.nn.Module:
        from ctseg.engine.model.create import build_network

        return build_network(entry, config, in_channels=in_channels, out_channels=out_channels)

    cost = None if patch is None else _cost(spec.name, patch, constraints, build, in_channels)
    result = {
        "name": spec.name,
        "summary": spec.summary,
        "reference": spec.reference,
        "package": entry.plugin.package,
        "version": entry.plugin.version,
        "plugin": entry.plugin.name,
        "module": entry.plugin.module,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "parameters": cost["parameters"] if cost else _parameters(build()),
        "cost": cost,
        "from_plan": spec.from_plan is not None,
        "constraints": dataclasses.asdict(constraints),
        "config": dataclasses.asdict(config),
        "options": listings.options(spec.config),
    }
    if as_json:
        ui.print_json(result)
        return
    ui.show(f"{spec.name}: {spec.summary}")
    if spec.reference:
        ui.show(f"  {spec.reference}")
    ui.show(f"  from {listings.provider(entry.plugin)} ({entry.plugin.module})")
    chosen = "options as given" if settings else "default options"
    image = "1 image channel" if in_channels == 1 else f"{in_channels} image channels"
    outputs = "1 output" if out_channels == 1 else f"{out_channels} outputs"
    ui.show(f"  {result['parameters']:,} parameters ({image}, {outputs}, {chosen})")
    for line in (*_constraint_lines(constraints), *_cost_lines(cost)):
        ui.show(f"  {line}")
    adapts = "options are fitted to the data set" if spec.from_plan else "options are fixed"
    ui.show(f"  {adapts}; change one with --set model.options.NAME=VALUE")
    ui.show()
    listings.show_options(listings.options(spec.config))


def _options(settings: list[str]) -> dict[str, Any]:
    """Parse the network's options from `NAME=VALUE`, as in `ctseg train --set model.options.NAME=VALUE`."""
    from ctseg.config import RunConfig, override

    own = [setting.removeprefix("model.options.") for setting in settings]
    for setting in own:
        if not setting.partition("=")[1]:
            raise ConfigError(
                f"'--set {setting}' is not OPTION=VALUE.", hint="For example: --set dropout=0.1"
            )
    return override(RunConfig(), [f"model.options.{setting}" for setting in own]).model.options


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _cost(
    name: str,
    patch: str,
    constraints: Constraints,
    build: Callable[[], torch.nn.Module],
    in_channels: int,
) -> dict[str, Any]:
    """Operations and bytes for one patch; raises BadInput if the network does not accept it."""
    from ctseg.engine.inference.tiling import check
    from ctseg.nets.cost import measure

    z, y, x = axes.numbers(patch, int)
    check((z, y, x), 0.0)
    fitted = constraints.fit((z, y, x))
    if fitted != (z, y, x):
        raise BadInput(
            f"The patch {(z, y, x)} does not suit {name}: its size (z, y, x) must be {constraints.sizes}.",
            hint=f"For example: --patch {','.join(map(str, fitted))}",
        )
    return {
        "patch_zyx": fitted,
        **dataclasses.asdict(measure(build, fitted, in_channels=in_channels)),
    }


def _constraint_lines(constraints: Constraints) -> list[str]:
    """The constraints on patches as text."""
    lines = [f"patches (z, y, x): {constraints.sizes}"]
    if constraints.dims == 2:
        context = constraints.context_slices
        slices = f"{context} on either side" if context else "none"
        lines.append(f"slice-wise; neighbouring slices as context: {slices}")
    return lines


def _cost_lines(cost: dict[str, Any] | None) -> list[str]:
    """The cost of a patch as text."""
    if cost is None:
        return ["operations and memory: add --patch Z,Y,X"]
    mib = {key: f"{cost[key] / 2**20:,.0f} MiB" for key in cost if key.endswith("_bytes")}
    saved = f"{mib['training_bytes']} are kept for the backward pass"
    return [
        f"one patch of {' x '.join(map(str, cost['patch_zyx']))} voxels, float32:",
        f"  forward pass: {cost['flops'] / 1e9:,.1f} GFLOP, {mib['inference_bytes']} at its peak",
        f"  training step: {mib['step_bytes']} at its peak, gradients included; {saved}",
        f"  weights: {mib['weight_bytes']}; the state of Muon takes as much, AdamW's twice",
    ]
