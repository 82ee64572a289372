"""`ctseg statistics`: volume, position and values of each label of a mask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options.data import LabelOption, OptionOption, parse_labels, parse_options
from ctseg.metrics.units import volume_unit

if TYPE_CHECKING:
    from ctseg.engine.evaluation.label_statistics import ScanStatistics

EXAMPLES = (
    "ctseg statistics scan.nii.gz mask.nii.gz",
    "ctseg statistics t1.nii.gz,t2.nii.gz mask.nii.gz -o statistics.csv --label tumour=1",
)


def statistics(
    scan: Annotated[
        str, typer.Argument(metavar="SCAN", help="Scan, or folder of DICOM slices.", show_default=False)
    ],
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="Label map.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File for all numbers: .csv or .json."),
    ] = None,
    label: LabelOption = None,
    option: OptionOption = None,
    as_json: ui.JsonOption = False,
) -> None:  # fmt: skip
    """Measure each label of a mask, and the scan's values in it."""
    from ctseg.engine.evaluation.label_statistics import refs_of, statistics_of_files
    from ctseg.errors import BadInput
    from ctseg.files import check_replaceable, write_text
    from ctseg.metrics.statistics.summary import as_csv, as_data
    from ctseg.metrics.statistics.summary import as_json as json_text
    from ctseg.volume.file_names import stem_of

    suffix = "" if output is None else output.suffix.lower()
    if output is not None:
        if suffix not in (".csv", ".json"):
            raise BadInput(f"'{output.name}' is no table.", hint="Suffixes: .csv, .json")
        check_replaceable(output)
    files = [Path(scan)] if Path(scan).exists() else [Path(part) for part in scan.split(",")]
    images, mask_ref = refs_of(files, mask, parse_options(option or []))
    with ui.progress("Reading", total=1) as bar:
        found = statistics_of_files(
            images, mask_ref, parse_labels(label or []), advance=bar.advance
        )
    for note in found.notes:
        ui.say(f"Note: {note}")
    case, channels, error = stem_of(mask), found.channels, found.error
    if output is not None and suffix == ".csv":
        write_text(output, as_csv(case, found.labels, channels=channels))
    elif output is not None:
        write_text(output, json_text(case, found.labels, channels=channels, error=error))
    if as_json:
        ui.print_json(as_data(case, found.labels, channels=channels, error=error))
    else:
        _table(found)


def _table(found: ScanStatistics) -> None:
    """A row for each label, or for each channel of the scan in it."""
    rows: list[list[object]] = []
    every = [one.plain() for one in found.labels]
    unit = volume_unit(row["volume_ml"] for row in every)
    several = found.channels > 1
    for row in every:
        size = [
            row["voxels"],
            unit.of(row["volume_ml"]),
            row["parts"],
            "yes" if row["at_edge"] else "no",
        ]
        for channel, values in enumerate(row["values"] or [{}]):
            shown = [values.get(name) for name in ("mean", "std", "p5", "median", "p95")]
            rows.append([row["name"], *([channel] if several else []), *size, *shown])
    heads = ["label", *(["channel"] if several else []), "voxels", unit.name, "parts", "at edge"]
    ui.table([*heads, "mean", "std", "p5", "median", "p95"], rows, keys=1 + several)
