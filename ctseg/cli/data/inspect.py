"""`ctseg data inspect`: reads data sets and scans, and reports their contents and problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import ui
from ctseg.cli.options import completion
from ctseg.cli.options.data import GridToleranceOption, OptionOption, parse_options

if TYPE_CHECKING:
    from ctseg.data.inspection.report import CaseReport, DataReport
    from ctseg.specs import DataSet

_SHOWN = 4
EXAMPLES = (
    "ctseg data inspect DATA",
    "ctseg data inspect DATA --json > report.json",
    "ctseg data inspect volume.h5 --option raw=/scan --option label=/mask",
    "ctseg data inspect scan.nii.gz",
)


def inspect(
    path: Annotated[Path, typer.Argument(help="Data set, scan, or folder of DICOM slices.")],
    reader: Annotated[
        str | None,
        typer.Option(
            "--reader",
            metavar="NAME",
            autocompletion=completion.readers,
            help="Layout of the data set.",
        ),
    ] = None,
    option: OptionOption = None,
    grid_tolerance: GridToleranceOption = None,
    as_json: ui.JsonOption = False,
) -> None:
    """Read every case once and list sizes, intensities, labels and problems.

    Exit code 1 if a problem is found.
    """
    options = parse_options(option or [])
    dataset = _dataset(path, reader, options, grid_tolerance)
    if isinstance(dataset, list) and dataset == [path]:
        from ctseg.data.inspection.scans import inspect_volume

        scan = inspect_volume(path, **options)
        ui.print_json(scan) if as_json else _show_scan(scan)
        problems = scan.problems
    elif isinstance(dataset, list):
        from ctseg.data.inspection.scans import inspect_scans

        with ui.progress("Reading", total=len(dataset)) as bar:
            report = inspect_scans(path, dataset, lambda case: bar.advance(text=case))
        ui.print_json(report) if as_json else _show(report)
        problems = report.all_problems
    else:
        from ctseg.data.inspection.dataset import inspect_dataset

        with ui.progress("Reading", total=len(dataset.cases) + len(dataset.unlabelled)) as bar:
            report = inspect_dataset(dataset, lambda case: bar.advance(text=case))
        ui.print_json(report) if as_json else _show(report)
        problems = report.all_problems
    if problems:
        raise typer.Exit(1)


def _dataset(
    path: Path, reader: str | None, options: dict[str, Any], grid_tolerance: float | None
) -> DataSet | list[Path]:
    """The data set at a path, or the scans there if they have no known layout."""
    from ctseg import plugins
    from ctseg.data.readers.find import open_dataset
    from ctseg.data.readers.scans import find_scans
    from ctseg.volume.formats.source import options_of
    from ctseg.volume.io import format_of

    no_layout = reader is None and not any(spec.recognise(path) for spec in plugins.readers())
    spec = format_of(path) if no_layout and path.exists() else None
    if no_layout and path.is_dir() and not (path / "dataset.json").is_file():
        if spec is not None and options and set(options) <= set(options_of(spec)):
            return [path]  # e.g. one of several series
        scans = find_scans(path)
        if scans and not options:
            return scans
    elif spec is not None:
        return [path]
    return open_dataset(path, reader, grid_tolerance=grid_tolerance, **options)


def _show(report: DataReport) -> None:
    labelled = sum(case.labelled for case in report.cases)
    rest = len(report.cases) - labelled
    if report.reader == "scans":
        ui.show(f"{report.name}: {len(report.cases)} scans, not in a known data set layout")
    else:
        ui.show(
            f"{report.name} ({report.reader}): {labelled} labelled cases"
            + (f", {rest} without a label" if rest else "")
            + f", channels {', '.join(report.channels)}"
            + (f", {report.folds} folds given" if report.folds else "")
            + (f", {report.licence}" if report.licence else ""),
            prose=True,
        )
    several = len(report.channels) > 1
    columns = ["case", "voxels z y x", "spacing x y z", "axes"]
    columns += [
        *(["channel"] if several else []),
        "min",
        "0.5%",
        "median",
        "99.5%",
        "max",
        "labels",
    ]
    rows = [row for case in report.cases for row in _rows(case, several=several)]
    ui.table(columns, rows, prose=("labels",))
    _show_labels(report)
    problems = report.all_problems
    ui.show()
    ui.show(
        f"{len(problems)} problem{'s' if len(problems) != 1 else ''} found."
        if problems
        else "No problems found."
    )
    for text in problems:
        ui.show(f"  {text}", prose=True)
    for text in report.notes:
        ui.show(f"Note: {text}", prose=True)
    for case in report.cases:
        for text in case.notes:
            ui.show(f"Note: {case.id}: {text}", prose=True)


def _rows(case: CaseReport, *, several: bool) -> list[list[object]]:
    sizes = ", ".join(f"{size.name} {size.voxels}" for size in case.labels[:_SHOWN])
    if len(case.labels) > _SHOWN:
        sizes += f", ... ({len(case.labels)} labels)"
    head: list[object] = [case.id, _shape(case), _spacing(case), case.orientation or None]
    if not case.intensity:
        return [[*head, *([None] if several else []), None, None, None, None, None, sizes or None]]
    rows = []
    for index, values in enumerate(case.intensity):
        numbers = (values.low, values.p005, values.median, values.p995, values.high)
        rows.append(
            [
                *(head if index == 0 else [""] * len(head)),
                *([values.channel] if several else []),
                *(f"{number:.5g}" for number in numbers),
                (sizes or None) if index == 0 else "",
            ]
        )
    return rows


def _show_labels(report: DataReport) -> None:
    by_label: dict[str, list[tuple[int, float]]] = {}
    for case in report.cases:
        for size in case.labels:
            by_label.setdefault(size.name, []).append((size.voxels, size.ml))
    if not by_label:
        return
    rows = []
    for name, sizes in by_label.items():
        present = [(voxels, ml) for voxels, ml in sizes if voxels]
        volumes = sorted(ml for _, ml in present)
        low, middle, high = (
            (volumes[0], volumes[len(volumes) // 2], volumes[-1]) if volumes else (None,) * 3
        )
        total = sum(voxels for voxels, _ in present)
        rows.append([name, len(present), total, *map(_ml, (low, middle, high))])
    ui.show()
    ui.table(["label", "cases", "voxels", "smallest ml", "median ml", "largest ml"], rows)


def _ml(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def _shape(case: CaseReport) -> str | None:
    return None if case.shape_zyx is None else " x ".join(map(str, case.shape_zyx))


def _spacing(case: CaseReport) -> str | None:
    if case.spacing_xyz is None:
        return None
    factor = 1000 if case.unit == "um" else 1
    return " x ".join(f"{value * factor:.4g}" for value in case.spacing_xyz) + f" {case.unit}"


def _show_scan(scan: CaseReport) -> None:
    rows: list[list[object]] = [
        ["voxels (z, y, x)", _shape(scan)],
        ["spacing (x, y, z)", _spacing(scan)],
        ["origin (x, y, z), mm", " x ".join(f"{v:.6g}" for v in scan.origin_xyz or ())],
        ["axes run to", scan.orientation],
        ["type", scan.dtype],
    ]
    for values in scan.intensity:
        name = f"channel {values.channel}: " if values.channel else ""
        rows.append([f"{name}min, max", f"{values.low:.6g}, {values.high:.6g}"])
        quantiles = (values.p005, values.median, values.p995)
        rows.append([f"{name}0.5%, median, 99.5%", ", ".join(f"{v:.6g}" for v in quantiles)])
    ui.table([scan.id, "values"], rows, prose=("values",))
    if scan.labels:
        ui.show()
        ui.table(["label", "voxels", "ml"], [[s.name, s.voxels, _ml(s.ml)] for s in scan.labels])
    for text in scan.problems:
        ui.show(f"Problem: {text}", prose=True)
    for text in scan.notes:
        ui.show(f"Note: {text}", prose=True)
