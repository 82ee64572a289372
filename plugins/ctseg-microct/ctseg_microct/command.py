"""`ctseg measure`: microstructure descriptors of a label map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options.data import OptionOption, parse_options


def measure(
    volume: Annotated[
        Path, typer.Argument(metavar="VOLUME", help="Label map.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder of the results.", show_default=False
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="NAME=VALUE,...", help="Labels to measure (default: all)."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="TOPIC,...", help="Topics, e.g. fractions,objects."),
    ] = None,
    reach: Annotated[
        str | None, typer.Option("--reach", metavar="LENGTH", help="Longest distance, e.g. 200um.")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="RULE",
            help="Part touching grains: neck ratio or boundary label.",
        ),
    ] = "",
    scan: Annotated[
        Path | None,
        typer.Option("--scan", metavar="SCAN", help="Grey values or vectors, for the orientation."),
    ] = None,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Memory for blocks.")
    ] = "1G",
    option: OptionOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure the microstructure of a label map, block by block."""
    from contextlib import ExitStack, closing

    from ctseg.engine.inference.memory.fit import parse_size
    from ctseg.errors import BadInput
    from ctseg.volume.formats.calibration import UNKNOWN
    from ctseg.volume.formats.units import read_spacing
    from ctseg.volume.io import notes_of, open_volume
    from ctseg_microct.measure import TOPICS, Wanted
    from ctseg_microct.measure import measure as run
    from ctseg_microct.objects_file import write_objects
    from ctseg_microct.phases import parse_labels, read_phases
    from ctseg_microct.plots import draw
    from ctseg_microct.report import write_results

    topics = tuple(only.split(",")) if only else TOPICS
    for topic in topics:
        if topic not in (*TOPICS, "orientation"):
            raise BadInput(
                f"There is no topic '{topic}'.",
                hint=f"Topics: {', '.join((*TOPICS, 'orientation'))}",
            )
    if "orientation" in topics and only and scan is None:
        raise BadInput("The orientation needs grey values or vectors.", hint="Add --scan SCAN")
    if split and "objects" not in topics:
        raise BadInput(
            "--split parts objects, which are not measured.", hint="Add objects to --only."
        )
    if output.is_file():
        raise BadInput(f"{output} is a file; results need a folder.")
    wanted = Wanted(
        topics, read_spacing(reach)[0][0] if reach else None, split, parse_size(memory) // 2,
        lambda what: ui.say(f"Measuring {what}"),
    )  # fmt: skip
    with ExitStack() as stack:
        source = stack.enter_context(closing(open_volume(volume, **parse_options(option or []))))
        calibrated, notes = not source.metadata.get(UNKNOWN), notes_of([source])
        for note in notes:
            ui.say(f"Note: {note}")
        if not calibrated and reach and reach.strip()[-1].isalpha():
            raise BadInput(
                f"{volume} does not state its voxel size, so {reach} may be any number of voxels.",
                hint="Give the reach in voxels, such as --reach 20, or the voxel size as the note says.",
            )
        grey = stack.enter_context(closing(open_volume(scan))) if scan else None
        phases = read_phases(source, parse_labels(labels) if labels else None)
        results = run(phases, wanted, grey)
    summary = write_results(phases, results, output, calibrated=calibrated, notes=notes)
    draw(summary, output)
    if split and results.numbered is not None:
        write_objects(results.numbered, source, output / "objects.h5")
    if as_json:
        ui.print_json(summary)
        return
    _table(summary)
    ui.say(f"Wrote {output}")


def _table(summary: dict[str, object]) -> None:
    """One row a label: the numbers that are asked for most."""
    unit, rows = summary["unit"], []
    labels: dict[str, dict[str, dict[str, object]]] = summary["labels"]  # type: ignore[assignment]
    for name, row in labels.items():
        parts: dict[str, float] = row.get("connectivity", {}).get("percolating_share", {})  # type: ignore[assignment]
        spans = "".join(axis for axis in "xyz" if parts.get(axis)) or ("none" if parts else None)
        rows.append(
            (
                name,
                row.get("fractions", {}).get("fraction"),
                row.get("fractions", {}).get("specific_surface"),
                row.get("correlation", {}).get("length"),
                row.get("thickness", {}).get("mean"),
                row.get("windows", {}).get("representative_edge"),
                row.get("connectivity", {}).get("parts"),
                spans,
            )
        )
    ui.table(
        ("label", "fraction", f"surface /{unit}", f"corr. length {unit}", f"thickness {unit}", f"window {unit}",
         "parts", "percolates"),
        rows,
    )  # fmt: skip
