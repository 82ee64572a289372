"""`ctseg zoo import`: models of other projects as entries of the zoo."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.data_options import parse_options
from ctseg.errors import BadInput

FIRST = "first"
"""Name of the model that the others are merged with."""


class Dtype(StrEnum):
    """How weights are stored."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


EXAMPLES = (
    "ctseg zoo import nnunet nnUNet_results/Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres",
    "ctseg zoo import nnunet organs --merge vertebrae=FOLDER --merge ribs=FOLDER --tag total_v2",
    "ctseg zoo import pytorch3dunet best_checkpoint.pytorch config.yaml --tag cells_v1 --licence MIT",
    "ctseg zoo import nnunet exported.zip --configuration 3d_fullres --folds 0,1 --licence 'CC BY 4.0'",
)


def import_(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="nnunet, pytorch3dunet or the name of a plugin's importer."
        ),
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="nnunet: a results folder or a zip; pytorch3dunet: checkpoint and configuration.",
        ),
    ],
    configuration: Annotated[
        str | None,
        typer.Option(
            "--configuration", metavar="NAME", help="Which, where there are several: 3d_fullres."
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds", metavar="N,N", help="Numbers, or all; every trained fold when left out."
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", metavar="FILE", help="Of each fold; checkpoint_final.pth for nnunet."
        ),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            "--merge",
            metavar="NAME=FOLDER",
            help="A further model with labels of its own; all become one. Can be repeated.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Option of the importer, e.g. labels=background,cell; can be repeated.",
        ),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", help="Second part of the name; made from the source when left out."),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="Of the weights, where the source does not say it.")
    ] = "",
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="How the weights are stored.")
    ] = Dtype.fp32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model of that name.")
    ] = False,
    zoo: ui.ZooOption = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Take a model of another project over into the zoo; none of its code is run.

    Pickles are read as data alone: one that names classes or functions is refused.
    """
    from ctseg.zoo.importers.entry import import_model
    from ctseg.zoo.readme import usage

    named = {"configuration": configuration, "folds": folds, "checkpoint": checkpoint}
    options = parse_options(option or []) | {k: v for k, v in named.items() if v is not None}
    entry, notes = import_model(
        kind, paths, tag=tag, zoo=zoo, dtype=dtype.value, licence=licence, overwrite=overwrite,
        options=options, merge=_parts(merge or []),
    )  # fmt: skip
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
    """`["ribs=FOLDER", ...]` as a dictionary."""
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
