"""`ctseg view`: one HTML page with a scan and label maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options import axes
from ctseg.cli.options.data import LabelOption, parse_labels

if TYPE_CHECKING:
    from ctseg.report.display import Box

EXAMPLES = (
    "ctseg view scan.nii.gz mask.nii.gz --label liver=1 -o page.html",
    "ctseg view STUDY prediction.nii.gz --compare reference.nii.gz",
    "ctseg view giant.ome.zarr --region 0:200,100:500,100:500",
)

RegionOption = Annotated[
    str | None,
    typer.Option(
        "--region", metavar="Z:Z,Y:Y,X:X", help="Part of the scan in voxels: 0:40,100:300,90:310."
    ),
]


def view(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="Scan, or folder of DICOM slices.")],
    masks: Annotated[
        list[Path] | None, typer.Argument(metavar="[MASK]...", help="Label maps.")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="MASK", help="Show the difference of the mask to this."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Page to write (default: SCAN.html here)."
        ),
    ] = None,
    region: RegionOption = None,
    label: LabelOption = None,
) -> None:
    """Write a page that shows a scan and label maps in any browser, without a network."""
    from ctseg.errors import BadInput
    from ctseg.files import check_replaceable
    from ctseg.report.display import read_display
    from ctseg.report.viewer.page import niivue_script, page_title, write_page
    from ctseg.volume.file_names import stem_of

    listed = list(masks or [])
    if compare is not None and len(listed) != 1:
        raise BadInput(
            f"--compare needs one mask to compare with, not {len(listed)}.",
            hint="Name it after the scan: ctseg view SCAN MASK --compare REFERENCE",
        )
    listed += [compare] if compare is not None else []
    html = output or Path(f"{stem_of(scan)}.html")
    check_replaceable(html)
    niivue_script()  # tells what is missing before a large scan is read
    names = parse_labels(label or [])
    shown = read_display(scan, listed, region=region_of(region), labels=names)
    write_page(shown, html, title=page_title(scan, listed), compare=compare is not None)
    if shown.note:
        ui.say(shown.note)
    ui.show(f"{html} ({html.stat().st_size / 2**20:.1f} MiB)")


def region_of(text: str | None) -> Box | None:
    """Parse `--region`, with or without names of axes.

    Raises:
        BadInput: another form.
    """
    from ctseg.data.steps.region import parse_region

    if text is None:
        return None
    if "=" in text:
        text = ",".join(axes.in_order(text, example="0:40,100:300,90:310"))
    return parse_region(text)
