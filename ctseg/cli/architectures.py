"""`ctseg architectures`: networks that can be trained by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg import plugins
from ctseg.cli import specs, ui
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
        typer.Option("--patch", metavar=axes.ZYX, help="Patch whose cost is shown, in voxels."),
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
    """Show a network's options, size and demands on patches; with --patch also its operations and memory.

    What --set leaves out has its default. Memory is that of tensors in float32 for one patch, without weights and
    without what a convolution needs while it works; bfloat16 takes a little more than half.
    """
    entry = plugins.registry().get("architecture", name)
    spec = entry.spec
    config = plugins.make_config(spec, _options(settings or []))
    demands = spec.constraints_for(config)

    def build() -> torch.nn.Module:
        from ctseg.engine.model.create import build_network

        return build_network(entry, config, in_channels=in_channels, out_channels=out_channels)

    cost = None if patch is None else _cost(spec.name, patch, demands, build, in_channels)
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
        "constraints": dataclasses.asdict(demands),
        "config": dataclasses.asdict(config),
        "options": specs.options(spec.config),
    }
    if as_json:
        ui.print_json(result)
        return
    ui.show(f"{spec.name}: {spec.summary}")
    if spec.reference:
        ui.show(f"  {spec.reference}")
    ui.show(f"  from {specs.provider(entry.plugin)} ({entry.plugin.module})")
    chosen = "options as given" if settings else "default options"
    image = "1 image channel" if in_channels == 1 else f"{in_channels} image channels"
    outputs = "1 output" if out_channels == 1 else f"{out_channels} outputs"
    ui.show(f"  {result['parameters']:,} parameters ({image}, {outputs}, {chosen})")
    for line in (*_demands(demands), *_costs(cost)):
        ui.show(f"  {line}")
    adapts = "options are fitted to the data set" if spec.from_plan else "options stay as given"
    ui.show(f"  {adapts}; change one with --set model.options.NAME=VALUE")
    ui.show()
    specs.show_options(specs.options(spec.config))


def _options(settings: list[str]) -> dict[str, Any]:
    """The network's options from `NAME=VALUE`, as `ctseg train --set model.options.NAME=VALUE` reads them."""
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
    demands: Constraints,
    build: Callable[[], torch.nn.Module],
    in_channels: int,
) -> dict[str, Any]:
    """Operations and bytes for one patch, which the network must accept."""
    from ctseg.engine.inference.tiling import check
    from ctseg.nets.cost import measure

    z, y, x = axes.numbers(patch, int)
    check((z, y, x), 0.0)
    fitted = demands.fit((z, y, x))
    if fitted != (z, y, x):
        raise BadInput(
            f"The patch {(z, y, x)} does not suit {name}: sizes must be multiples of {demands.stride_zyx} "
            f"(z, y, x), {demands.min_tile_zyx} at least.",
            hint=f"For example: --patch {','.join(map(str, fitted))}",
        )
    return {
        "patch_zyx": fitted,
        **dataclasses.asdict(measure(build, fitted, in_channels=in_channels)),
    }


def _demands(demands: Constraints) -> list[str]:
    """What the network demands of patches, in words."""
    lines = [
        f"patches (z, y, x): multiples of {demands.stride_zyx}, at least {demands.min_tile_zyx}"
    ]
    if demands.fixed_tile_zyx:
        lines = [f"patches (z, y, x): exactly {demands.fixed_tile_zyx}"]
    if demands.dims == 2:
        slices = f"{demands.context_slices} on either side" if demands.context_slices else "none"
        lines.append(f"works slice by slice; neighbouring slices it looks at: {slices}")
    return lines


def _costs(cost: dict[str, Any] | None) -> list[str]:
    """The cost of a patch, in words."""
    if cost is None:
        return ["operations and memory: add --patch Z,Y,X"]
    mib = {key: f"{cost[key] / 2**20:,.0f} MiB" for key in cost if key.endswith("_bytes")}
    kept = f"{mib['training_bytes']} are kept for the backward pass"
    return [
        f"one patch of {' x '.join(map(str, cost['patch_zyx']))} voxels, float32:",
        f"  forward pass: {cost['flops'] / 1e9:,.1f} GFLOP, {mib['inference_bytes']} at its peak",
        f"  training step: {mib['step_bytes']} at its peak, gradients included; {kept}",
        f"  weights: {mib['weight_bytes']}; AdamW's state twice as much",
    ]
