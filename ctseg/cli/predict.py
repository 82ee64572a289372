"""`ctseg predict`: scans to label maps with a published model or a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ctseg.cli import ui
from ctseg.cli.data_options import parse_options
from ctseg.cli.predict_report import tell
from ctseg.cli.train import numbers
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from ctseg.config.postprocess import PostprocessRule
    from ctseg.engine.inference.model import Model

EXAMPLES = (
    "ctseg predict scan.nii.gz -m unet3d.hippocampus_v1 -o mask.nii.gz",
    "ctseg predict scans/ -m runs/first -o predictions --skip-existing",
    "ctseg predict t1.nii.gz,t2.nii.gz -m brain -o mask.nii.gz",
    "ctseg predict scans/ -m liver -o out --keep-largest liver --min-size lesion=0.1ml",
    "ctseg predict DATA --fold 0 -m runs/first -o predictions",
)

RESULTS, CLEANING, LOOKING, TILES, MACHINE = (
    "Results", "Post-processing (instead of the model's own)", "Where to look", "Tiles", "Machine",
)  # fmt: skip
INPUT = "Input"


def predict(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Scans: files, a,b for two channels, folders, DICOM folders, data sets.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            show_default=False,
            help="Zoo name, run folder or weight file; several are averaged.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            show_default=False,
            help="File for one scan, else folder.",
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="NAME,NAME", help="Only these labels.", rich_help_panel=RESULTS
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Also the probability of each label.", rich_help_panel=RESULTS
        ),
    ] = False,
    probabilities_format: Annotated[
        str | None,
        typer.Option(
            "--probabilities-format",
            metavar="SUFFIX",
            help="Of the probabilities, e.g. .zarr; .h5 when left out.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            rich_help_panel=RESULTS,
            help="Of probabilities and other values: float16, float32 or float64.",
        ),
    ] = "float32",
    masks: Annotated[
        bool,
        typer.Option(
            "--masks", help="Also a map of 0 and 1 for each label.", rich_help_panel=RESULTS
        ),
    ] = False,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            rich_help_panel=RESULTS,
            help="Also the probability of the label that was chosen.",
        ),
    ] = False,
    instances: Annotated[
        bool,
        typer.Option(
            "--instances", help="Also a number for each connected part.", rich_help_panel=RESULTS
        ),
    ] = False,
    suffix: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="SUFFIX",
            rich_help_panel=RESULTS,
            help="Written label maps, e.g. .nrrd; as the input.",
        ),
    ] = "",
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Leave finished scans alone.", rich_help_panel=RESULTS
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel=RESULTS),
    ] = False,
    keep_largest: Annotated[
        str | None,
        typer.Option(
            "--keep-largest",
            metavar="LABELS",
            rich_help_panel=CLEANING,
            help="Only the largest part: all, liver, kidneys=2 (the two largest), liver+tumour (as one).",
        ),
    ] = None,
    min_size: Annotated[
        str | None,
        typer.Option(
            "--min-size",
            metavar="SIZE",
            rich_help_panel=CLEANING,
            help="Smallest part that stays: 0.5ml or 30vox for all, or liver=0.5ml,lesion=30vox.",
        ),
    ] = None,
    fill_holes: Annotated[
        str | None,
        typer.Option(
            "--fill-holes",
            metavar="LABELS",
            rich_help_panel=CLEANING,
            help="Fill what a label encloses: all, liver, vessel=slices.",
        ),
    ] = None,
    no_postprocess: Annotated[
        bool,
        typer.Option(
            "--no-postprocess", help="What the network says, as it is.", rich_help_panel=CLEANING
        ),
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", metavar="NAME", help="Dataset within HDF5 files.", rich_help_panel=INPUT
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(
            "--fold",
            metavar="N",
            min=0,
            rich_help_panel=INPUT,
            help="Of a data set only the cases that validate there.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            rich_help_panel=INPUT,
            help="Option of the input's format, e.g. series=1.2.840; spacing=0.7,0.7,2.5 (x, y, z in mm) for all.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            rich_help_panel=INPUT,
            help="Warn where a scan or a plugin too far from those of training is refused.",
        ),
    ] = False,
    coarse: Annotated[
        str | None,
        typer.Option(
            "--coarse",
            metavar="NAME",
            rich_help_panel=LOOKING,
            help="A model that says where to look; the card's own when left out.",
        ),
    ] = None,
    coarse_labels: Annotated[
        str | None,
        typer.Option(
            "--coarse-labels",
            metavar="NAME,NAME",
            rich_help_panel=LOOKING,
            help="The only ones of its labels that count.",
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin", metavar="MM", help="Kept around what it finds.", rich_help_panel=LOOKING
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            metavar="Z:Z,Y:Y,X:X",
            rich_help_panel=LOOKING,
            help="Only these voxels, as stored: first and one past the last.",
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option("--tile", metavar="Z,Y,X", help="Tile in voxels.", rich_help_panel=TILES),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            "--overlap",
            metavar="SHARE",
            help="Share of a tile, 0 to under 1.",
            rich_help_panel=TILES,
        ),
    ] = None,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta",
            rich_help_panel=TILES,
            help="Average mirrored views, where the model allows it.",
        ),
    ] = False,
    skip_air: Annotated[
        float | None,
        typer.Option(
            "--skip-air",
            metavar="VALUE",
            rich_help_panel=TILES,
            help="Tiles without a voxel above this value of the scan are background.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Tiles at a time.", rich_help_panel=TILES
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            rich_help_panel=MACHINE,
            help="At most so much, e.g. 8G; what is free when left out.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="auto, cpu, cuda, cuda:1 or mps.",
            rich_help_panel=MACHINE,
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="PRECISION",
            help="auto, fp32, bf16 or fp16.",
            rich_help_panel=MACHINE,
        ),
    ] = "auto",
    zoo: Annotated[
        Path | None,
        typer.Option(
            "--zoo",
            metavar="FOLDER",
            rich_help_panel=MACHINE,
            help="Zoo folder; your own when left out (see: ctseg doctor).",
        ),
    ] = None,
) -> None:
    """Segment scans; the result lies on the grid of its input.

    A folder of results gets predictions.json with model, settings, times and volumes.
    A scan that fails is reported and the others go on; the exit code is 1 then.
    Several processes share the work: torchrun --nproc-per-node 2 -m ctseg predict ...
    """
    from ctseg.data.steps.region import parse_region
    from ctseg.engine.inference.memory.fit import parse_size
    from ctseg.engine.prediction.case_job import MemoryOptions
    from ctseg.engine.prediction.folder import predict_folder
    from ctseg.engine.prediction.inputs import find_items
    from ctseg.engine.prediction.multiprocess.team import open_team
    from ctseg.engine.prediction.queue import Summary
    from ctseg.engine.prediction.request import Request
    from ctseg.zoo.load import load_model

    ui.check_zoo(zoo)
    if dtype not in ("float16", "float32", "float64"):
        raise BadInput(f"'{dtype}' is no type of --dtype.", hint="float16, float32 or float64")
    if probabilities_format is not None and not probabilities:
        raise BadInput(
            "--probabilities-format says how to write probabilities, and none are asked for.",
            hint="Add --probabilities, or leave it out.",
        )
    with open_team() as team:
        leads = team is None or team.leads
        loaded = load_model(
            model[0] if len(model) == 1 else model, device=device, precision=precision, zoo=zoo,
            region=None if region is None else parse_region(region), coarse=coarse,
            coarse_labels=_names(coarse_labels), margin_mm=margin, force=force,
        ).with_settings(
            tile_zyx=None if tile is None else numbers(tile, int),
            overlap=overlap, tta=tta, batch_size=batch_size, skip_air=skip_air,
        )  # fmt: skip
        items = find_items(
            inputs, channels=loaded.card.in_channels, dataset=dataset, fold=fold,
            options=parse_options(option or []),
        )  # fmt: skip
        request = Request(
            output, probabilities, _names(labels), skip_existing, suffix, cast(Any, dtype),
            probabilities_format or ".h5", masks, confidence, instances,
            rules=_rules(loaded, keep_largest, min_size, fill_holes, no=no_postprocess),
        )  # fmt: skip
        fit = MemoryOptions(None if memory is None else parse_size(memory), batch_size is not None)
        summary = Summary()
        if leads:
            together = f" in {team.size} processes" if team is not None else ""
            name, runtime = loaded.card.name or model[0], loaded.runtime.describe()
            ui.say(f"{name} on {runtime}{together}; {len(items)} scan(s)")
        try:
            with ui.progress("Predicting", len(items), shown=leads) as bar:
                predict_folder(
                    loaded, items, request, fit=fit, on_progress=bar.update,
                    on_say=bar.say if leads else None, summary=summary, team=team,
                )  # fmt: skip
        except KeyboardInterrupt:
            if leads:
                ui.say(f"{len(summary.done)} scan(s) done; go on with --skip-existing.")
            raise
    if leads:
        debug = bool(context.find_root().params.get("debug"))
        tell(summary, loaded, request, scans=len(items), as_json=as_json, debug=debug)


def _names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(n.strip() for n in text.split(",") if n.strip())
    if not names:
        raise BadInput(f"'{text}' names no label.", hint="Separate names by commas: liver,spleen")
    return names


def _rules(
    loaded: Model, keep_largest: str | None, min_size: str | None, fill_holes: str | None,
    *, no: bool,
) -> tuple[PostprocessRule, ...] | None:  # fmt: skip
    """The rules asked for; None leaves it to the model's card."""
    from ctseg.engine.postprocess import rules_from_text

    asked = {"keep_largest": keep_largest, "min_size": min_size, "fill_holes": fill_holes}
    given = [f"--{name.replace('_', '-')}" for name, text in asked.items() if text is not None]
    if no and given:
        raise BadInput(f"--no-postprocess and {given[0]} contradict each other.")
    if no:
        return ()
    names = [label.name for label in loaded.task.labels]
    return rules_from_text(**asked, names=names) if given else None
