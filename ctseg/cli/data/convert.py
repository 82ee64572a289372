"""`ctseg data convert`: converts scans from one format to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctseg.cli import ui
from ctseg.cli.options import axes
from ctseg.cli.options.data import LabelOption, OptionOption, parse_labels, parse_options

if TYPE_CHECKING:
    from ctseg.specs import Label, VolumeSource
    from ctseg.volume.convert import Conversion, Converted

EXAMPLES = (
    "ctseg data convert scan.mha scan.nii.gz",
    "ctseg data convert STUDY scans --to .nii.gz",
    "ctseg data convert slices/ scan.h5 --spacing 5um",
    "ctseg data convert scan.h5 pictures --to slices --allow-loss",
    "ctseg data convert volume.h5 scan.tif --option dataset=/volume --allow-loss",
    "ctseg data convert mask.seg.nrrd mask.nii.gz --like scan.nii.gz",
    "ctseg data convert mask.nii.gz mask.nrrd --label background=0 --label liver=1",
)


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Scan, DICOM study, or folder of scans.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="File, or folder together with --to.")
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Suffix of files in a folder, or slices.",
        ),
    ] = None,
    option: OptionOption = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            "--spacing",
            metavar=axes.XYZ,
            help="Voxel spacing to use: 0.7,0.7,2.5 mm or 5um.",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="SCAN",
            help="Resample to the grid of this scan: labels to the nearest voxel, images linearly.",
        ),
    ] = None,
    interpolation: Annotated[
        str,
        typer.Option(
            "--interpolation",
            metavar="NAME",
            help="With --like: auto, nearest or linear.",
        ),
    ] = "auto",
    empty_slices: Annotated[
        str,
        typer.Option(
            "--empty-slices",
            metavar="VALUE",
            help="Value of slices without a label: 255, or y=255.",
            show_default=False,
        ),
    ] = "",
    label: LabelOption = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="SCAN",
            help="Scan of a label map, required for DICOM SEG.",
        ),
    ] = None,
    allow_loss: Annotated[
        bool,
        typer.Option(
            "--allow-loss", help="Drop origin and direction if the format cannot hold them."
        ),
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip scans whose outputs exist.")
    ] = False,
    as_json: ui.JsonOption = False,
) -> None:
    """Convert one scan or a folder of scans; grid, unit, voxel type and label names stay.

    Each volume of a file and each series of a study becomes one output. Exit code 1 if some fail.
    """
    from ctseg.engine.prediction.leftovers import remove_leftovers
    from ctseg.errors import BadInput, CtsegError

    if like is None and interpolation != "auto":
        raise BadInput(
            "--interpolation has no effect without --like.", hint="Name a grid: --like SCAN"
        )
    if like is not None and spacing is not None:
        raise BadInput(
            "--like and --spacing both set the voxel size.", hint="Leave one of them out."
        )
    options = parse_options(option or [])
    jobs, several = _jobs(source, target, to, options)
    more: Any = {"like": like, "interpolation": interpolation, "empty_slices": empty_slices}
    jobs = [replace(job, **more) for job in jobs]
    skipped = [job for job in jobs if skip_existing and job.target.exists()]
    waiting = [job for job in jobs if job not in skipped]
    for folder in {job.target.parent for job in skipped}:
        remove_leftovers(folder)
    labels = parse_labels(label or [])
    done: list[Converted] = []
    failed: dict[str, str] = {}
    scan = _reference(reference)
    try:
        with ui.progress("Converting", total=len(waiting)) as bar:
            for job in waiting:
                try:
                    done.append(_one(job, bar, spacing, labels, scan, allow_loss=allow_loss))
                except Exception as error:  # one bad scan must not stop the others
                    if not several:
                        raise
                    known = isinstance(error, CtsegError)
                    failed[job.name] = str(error) if known else f"{type(error).__name__}: {error}"
                    bar.say(f"Failed: {job.name}: {failed[job.name]}")
                bar.update(len(done) + len(failed))
    finally:
        if scan is not None:
            scan.close()
    if as_json:
        targets = [str(job.target) for job in skipped]
        ui.print_json({"converted": done, "skipped": targets, "failed": failed})
    else:
        _show(done, skipped, failed)
    if failed:
        raise typer.Exit(1)


def _jobs(
    source: Path, target: Path, to: str | None, options: dict[str, str]
) -> tuple[list[Conversion], bool]:
    """The conversions to do, and whether they go into a folder, where one may fail without the others."""
    from ctseg.errors import BadInput
    from ctseg.specs import frozen
    from ctseg.volume.convert import Conversion, find_jobs
    from ctseg.volume.formats.source import check_file
    from ctseg.volume.io import format_of, writer_format

    def is_name(path: Path) -> bool:  # also for an existing OME-Zarr, which is a folder
        try:
            writer_format(path)
        except BadInput:
            return False
        return True

    if not source.is_dir():
        check_file(source)
    if to is not None:
        if target.is_file():
            raise BadInput(
                f"{target} is a file; with --to the output is a folder.",
                hint="Leave out --to, or name a folder.",
            )
        return find_jobs(source, target, to, options), True
    folder = target.is_dir() and not is_name(target)
    if folder or (source.is_dir() and format_of(source) is None):
        raise BadInput(
            f"The format for the files in the folder {target} is missing.",
            hint="Choose it with --to, for example: --to .nii.gz",
        )
    writer_format(target)
    return [Conversion(source, target, frozen(options))], False


def _one(
    job: Conversion,
    bar: ui.Progress,
    spacing: str | None,
    labels: list[Label],
    reference: VolumeSource | None,
    *,
    allow_loss: bool,
) -> Converted:
    from ctseg.volume.convert import convert as convert_scan

    return convert_scan(
        job,
        spacing=None if spacing is None else _spacing(spacing),
        labels=labels,
        allow_loss=allow_loss,
        reference=reference,
        advance=lambda share: bar.advance(share, text=job.target.name),
    )


def _spacing(text: str) -> str:
    """Convert `X,Y,Z`, with or without unit and names of axes, to the order that `read_spacing` takes."""
    if "=" not in text:
        return text
    parts = axes.in_order(text, "xyz", example="0.7,0.7,2.5")
    units = {part.lstrip("+-.0123456789eE ") for part in parts} - {""}
    unit = units.pop() if len(units) == 1 else ""
    return " ".join(part.removesuffix(unit) for part in parts) + unit


def _reference(path: Path | None) -> VolumeSource | None:
    from ctseg.volume.io import open_volume

    return None if path is None else open_volume(path)


def _show(done: list[Converted], skipped: list[Any], failed: dict[str, str]) -> None:
    rows = []
    for one in done:
        factor = 1000 if one.unit == "um" else 1
        size = " x ".join(f"{value * factor:.4g}" for value in one.spacing_xyz)
        rows.append(
            [
                one.target,
                " x ".join(map(str, one.shape_zyx))
                + (f" x {one.channels}" if one.channels > 1 else ""),
                f"{size} {one.unit}",
                one.dtype,
                ", ".join(one.lost) or None,
            ]
        )
    if rows:
        ui.table(["written", "voxels z y x", "spacing x y z", "type", "lost"], rows)
    for one in done:
        for note in one.notes:
            ui.warn(f"{one.source}: {note}")
    if skipped:
        ui.show(f"{len(skipped)} skipped: their outputs exist.")
    if failed:
        ui.show(f"{len(failed)} failed:")
        for path, reason in failed.items():
            ui.show(f"  {path}: {reason.splitlines()[0]}")
