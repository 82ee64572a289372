"""`ctseg zoo export`: exports published models for other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options import completion

EXAMPLES = (
    "ctseg zoo export unet3d.hippocampus_v1 --to onnx -o hippocampus",
    "ctseg zoo export unet3d.hippocampus_v1 --to torch-export -o program",
    "ctseg zoo export unet3d.organs_v2 --to nnunet -o nnUNet_results/Dataset901_Organs",
)


class Kind(StrEnum):
    """Formats of an export."""

    nnunet = "nnunet"
    onnx = "onnx"
    torch_export = "torch-export"


def export(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Zoo name, entry folder, run folder or weight file.",
            autocompletion=completion.models,
        ),
    ],
    to: Annotated[
        Kind, typer.Option("--to", metavar="FORMAT", help="Format: nnunet, onnx or torch-export.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="New folder for the export."),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.")
    ] = False,
    zoo: ui.ZooOption = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Export a model for other tools, checked against the original.

    `model.json` beside the networks describes channels, preprocessing, tiles, labels and post-processing.
    """
    from ctseg.zoo.exporters.export import export_model

    ui.check_zoo(zoo)
    done = export_model(name, to.value, output, zoo=zoo, overwrite=overwrite)
    if as_json:
        ui.print_json({"folder": done.folder, "networks": done.networks, "notes": done.notes})
        return
    ui.say(f"Exported {done.card.name or name} to {done.folder}")
    for one in done.networks:
        size = (done.folder / one.file).stat().st_size / 2**20
        ui.say(
            f"  {one.file}: {size:.2f} MiB; its logits deviate by {one.deviation:.1g} ({one.checked_with})"
        )
    for note in done.notes:
        ui.say(note)
    licence = done.card.licence or done.card.training_data.licence
    if licence:
        ui.say(f"Licence of the weights: {licence}")
    ui.show(str(done.folder))
