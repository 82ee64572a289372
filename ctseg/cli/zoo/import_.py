"""`ctseg zoo import`: imports models of other projects into the zoo."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options import completion
from ctseg.cli.options.data import parse_options
from ctseg.errors import BadInput

FIRST = "first"
"""Name of the model that the others are merged with."""


class Dtype(StrEnum):
    """Stored type of weights."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


EXAMPLES = (
    "ctseg zoo import nnunet nnUNet_results/Dataset004_Hippocampus --licence MIT",
    "ctseg zoo import nnunet exported.zip --configuration 3d_fullres --folds 0,1",
    "ctseg zoo import nnunet organs --merge ribs=FOLDER --tag total_v2",
    "ctseg zoo import pytorch3dunet best.pytorch config.yaml --tag cells_v1",
)


def import_(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="nnunet, pytorch3dunet, monai (with ctseg-monai) or another plugin's importer.",
            autocompletion=completion.importers,
        ),
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Results folder or zip; or checkpoint and configuration.",
        ),
    ],
    configuration: Annotated[
        str | None,
        typer.Option("--configuration", metavar="NAME", help="Configuration, e.g. 3d_fullres."),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option("--folds", metavar="N,N", help="Folds (default: all that are trained)."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="FILE", help="Checkpoint file of each fold."),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            "--merge",
            metavar="NAME=FOLDER",
            help="Model with further labels (repeatable).",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Option of the importer (repeatable).",
        ),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", metavar="TAG", help="Tag in the name (default: from the source)."),
    ] = None,
    licence: Annotated[
        str,
        typer.Option(
            "--licence", metavar="TEXT", help="Licence of the weights; the source's if left out."
        ),
    ] = "",
    dtype: Annotated[
        Dtype,
        typer.Option("--dtype", metavar="TYPE", help="Stored type: fp32, bf16 or fp16."),
    ] = Dtype.fp32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model of that name.")
    ] = False,
    zoo: ui.ZooOption = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Import a model of another project into the zoo; none of its code is run.

    Pickles are read as plain data: one that names classes or functions is rejected.
    """
    from ctseg.zoo.importers.entry import EntryOptions, import_model
    from ctseg.zoo.readme import usage

    named = {"configuration": configuration, "folds": folds, "checkpoint": checkpoint}
    options = parse_options(option or []) | {k: v for k, v in named.items() if v is not None}
    entry, notes = import_model(
        kind,
        paths,
        EntryOptions(tag=tag, zoo=zoo, dtype=dtype.value, licence=licence, overwrite=overwrite),
        options=options,
        merge=_parts(merge or []),
    )
    card = entry.card()
    if as_json:
        ui.print_json({"name": entry.name, "folder": entry.folder, "card": card, "notes": notes})
        return
    ui.say(f"Imported {entry.name} into {entry.folder}")
    for file in entry.weights():
        ui.say(f"  {file.name}: {file.stat().st_size / 2**20:.2f} MiB")
    for note in notes:
        ui.say(note)
    ui.say(f"Use it: {usage(card)}")
    ui.show(entry.name)


def _parts(pairs: list[str]) -> dict[str, str]:
    """Parse `["ribs=FOLDER", ...]` into a dictionary."""
    parts: dict[str, str] = {}
    for pair in pairs:
        name, mark, folder = pair.partition("=")
        if not mark or not name or not folder or name in parts or name == FIRST:
            raise BadInput(
                f"'--merge {pair}' is not NAME=FOLDER with a name of its own.",
                hint="For example: --merge vertebrae=FOLDER",
            )
        parts[name] = folder
    return parts
