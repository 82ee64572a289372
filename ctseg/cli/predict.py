"""`ctseg predict`: scans to label maps with a published model or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.train import numbers
from ctseg.errors import EXIT_BAD_INPUT, EXIT_FAILED

EXAMPLES = (
    "ctseg predict scan.nii.gz -m unet3d.hippocampus_v1 -o mask.nii.gz",
    "ctseg predict scans/ -m runs/first -o predictions --skip-existing",
    "ctseg predict t1.nii.gz,t2.nii.gz -m brain -o mask.nii.gz",
    "ctseg predict DATA --fold 0 -m runs/first -o predictions",
)


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Scans: files, a,b for two channels, folders, DICOM folders, data sets.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="NAME", help="Zoo name, run folder or weight file."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PATH", help="File for one scan, else folder.")
    ],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each label.")
    ] = False,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="NAME,NAME", help="Only these labels.")
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average mirrored views, where the model allows it.")
    ] = False,
    tile: Annotated[
        str | None, typer.Option("--tile", metavar="Z,Y,X", help="Tile in voxels.")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option("--overlap", help="Share of a tile, 0 to under 1.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Tiles at a time.")
    ] = None,
    suffix: Annotated[
        str,
        typer.Option("--format", metavar="SUFFIX", help="Written files, e.g. .nrrd; as the input."),
    ] = "",
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Dataset within HDF5 files.")
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option("--fold", min=0, help="Of a data set only the cases that validate there."),
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave finished scans alone.")
    ] = False,
    device: ui.DeviceOption = "auto",
    precision: ui.PrecisionOption = "auto",
    zoo: ui.ZooOption = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Segment scans; the result lies on the grid of its input.

    A folder of results gets predictions.json with model, settings, times and volumes. A scan that fails is
    reported and the others go on; the exit code is 1 then, and 2 where the only scan was bad.
    """
    from ctseg.engine.folder import predict_folder
    from ctseg.engine.inputs import find_items
    from ctseg.engine.request import Request
    from ctseg.zoo.load import load

    segmenter = load(model, device=device, precision=precision, zoo=zoo).with_settings(
        tile_zyx=None if tile is None else numbers(tile, int),
        overlap=overlap,
        tta=tta,
        batch_size=batch_size,
    )
    items = find_items(inputs, channels=segmenter.card.in_channels, dataset=dataset, fold=fold)
    names = None if labels is None else tuple(n.strip() for n in labels.split(",") if n.strip())
    request = Request(output, probabilities, names, skip_existing, suffix)
    ui.say(
        f"{segmenter.card.name or model} on {segmenter.runtime.describe()}; {len(items)} scan(s)"
    )
    with ui.progress("Predicting", len(items)) as bar:
        summary = predict_folder(
            segmenter,
            items,
            request,
            on_progress=lambda done, total, name: bar.update(done, total, name),
        )
    if as_json:
        ui.print_json(
            {
                "cases": summary.done, "skipped": summary.skipped,
                "failed": {name: error.message for name, error in summary.failed.items()},
            }
        )  # fmt: skip
    elif summary.done:
        kept = [label.name for label in segmenter.written_labels(names)]
        columns = [f"{name} ml" for name in kept] if not probabilities else []
        rows = [
            [r["case"], r["seconds"], *(r["volumes_ml"][n] for n in kept if not probabilities)]
            for r in summary.done
        ]
        ui.table(["case", "seconds", *columns], rows)
    if summary.skipped:
        ui.say(f"{len(summary.skipped)} were there already.")
    for name, error in summary.failed.items():
        ui.say(f"Error: {name}: {error.message}", style="red")
        if error.hint:
            ui.say(f"  {error.hint}")
    if summary.failed:
        if len(items) == 1:
            raise typer.Exit(next(iter(summary.failed.values())).exit_code)
        ui.say(f"{len(summary.failed)} of {len(items)} scans failed.")
        raise typer.Exit(
            EXIT_BAD_INPUT if not summary.done and not summary.skipped else EXIT_FAILED
        )
