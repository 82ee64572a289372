"""`ctseg render`: pictures, films and meshes of scans and label maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options.data import LabelOption, parse_labels

if TYPE_CHECKING:
    from ctseg.report.display import Display
    from ctseg.report.planes import Look, Plane, Window
    from ctseg.specs import Label, Task

EXAMPLES = (
    "ctseg render scan.nii.gz mask.nii.gz -o picture.png",
    "ctseg render scan.nii.gz mask.nii.gz -o mosaic.png --at 12 --fill 0",
    "ctseg render scan.nii.gz mask.nii.gz -o film.mp4 --plane coronal --window lung",
    "ctseg render mask.nii.gz -o liver.stl --label liver=1 --labels liver",
)
PICTURES = (".png",)
_MESH_VOXELS = 2**27
"""Of a label map that is meshed as it is; a larger one is reduced before."""


def render(
    scan: Annotated[
        Path, typer.Argument(metavar="SCAN", help="Scan, or folder of DICOM slices; for a mesh, a label map.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write: .png, .gif, .mp4, .webm, .stl, .ply or .glb."
        ),
    ],
    masks: Annotated[
        list[Path] | None, typer.Argument(metavar="[MASK]...", help="Label maps.")
    ] = None,
    plane: Annotated[
        str | None,
        typer.Option("--plane", metavar="NAME", help="Plane: axial (default), coronal or sagittal."),
    ] = None,
    slices: Annotated[
        str | None,
        typer.Option("--at", metavar="SLICES", help="How many (12), which (10,20,30), or 10:60:5."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option("--window", metavar="LOW,HIGH", help="Two values, or soft tissue, lung, bone, brain."),
    ] = None,
    fill: Annotated[
        float | None,
        typer.Option(
            "--fill", metavar="OPACITY", min=0.0, max=1.0, help="Opacity inside contours (0.35); 0: contours only."
        ),
    ] = None,
    label: LabelOption = None,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="NAME,NAME", help="Labels to draw (default: all).")
    ] = None,
) -> None:  # fmt: skip
    """Draw slices with label maps as a picture or film, or write the surfaces of labels as a mesh."""
    from ctseg.errors import BadInput
    from ctseg.files import check_replaceable
    from ctseg.report.display import DISPLAY_VOXELS, read_display
    from ctseg.report.film import FILMS
    from ctseg.report.meshes import MESHES
    from ctseg.report.planes import Look
    from ctseg.volume.io import open_volume

    suffix, given = output.suffix.lower(), list(masks or [])
    if suffix not in (*PICTURES, *FILMS, *MESHES):
        known = ", ".join((*PICTURES, *FILMS, *MESHES))
        raise BadInput(f"'{output.name}' is no picture, film or mesh.", hint=f"Suffixes: {known}")
    check_replaceable(output)
    _check_packages(suffix)
    mesh = suffix in MESHES
    if len(given) > 1 and (mesh or suffix in FILMS or slices or plane):
        raise BadInput(
            f"{output.name} shows one label map, not {len(given)}.",
            hint="Leave out all but one, or draw a .png without --at and --plane.",
        )
    if mesh:
        looks = {"--plane": plane, "--at": slices, "--window": window, "--fill": fill}
        if useless := [name for name, value in looks.items() if value is not None]:
            raise BadInput(
                f"{useless[0]} has no effect on a mesh.",
                hint="Leave it out, or write a picture: -o FILE.png",
            )
        if given:  # the mesh lies where the mask does, but a mistyped scan is told
            open_volume(scan).close()
        given = given or [scan]
    shown = read_display(
        given[0] if mesh else scan,
        given,
        labels=parse_labels(label or []),
        most=_MESH_VOXELS if mesh else DISPLAY_VOXELS,
    )
    task = _task(shown, labels)
    look = Look(_window(window), fill=Look.fill if fill is None else fill)
    if mesh:
        _write_mesh(shown, task, output)
    elif suffix in FILMS or slices is not None or plane is not None:
        _write_slices(shown, task, look, _plane(plane or "axial"), slices, output)
    else:
        from ctseg.report.overlay import draw_overlay

        layers = {layer.name: layer.array for layer in shown.layers}
        draw_overlay(shown.volume, layers, task, output, look=look)
    if shown.note:
        ui.say(shown.note)
    ui.show(str(output))


def _check_packages(suffix: str) -> None:
    """Tell what is missing before a large scan is read."""
    from ctseg.report import film, meshes
    from ctseg.report.extras import optional

    if suffix in meshes.MESHES:
        optional("skimage.measure", meshes.EXTRA)
        optional("trimesh", meshes.EXTRA)
    elif suffix in film.FILMS and suffix != ".gif":
        optional("imageio_ffmpeg", film.EXTRA)


def _task(shown: Display, names: str | None) -> Task:
    """The labels of all maps, or those that are named, as a task."""
    from ctseg.errors import UnknownName
    from ctseg.specs import Label, Task

    found: dict[int, Label] = {}
    for layer in shown.layers:
        found = {one.value: one for one in layer.labels} | found
    wanted = None if names is None else [name.strip() for name in names.split(",")]
    known = [one.name for one in found.values()]
    for name in wanted or []:
        if name not in known:
            raise UnknownName("label", name, known)
    kept = [one for _, one in sorted(found.items()) if wanted is None or one.name in wanted]
    return Task("classes", (Label("background", (0,), 0), *kept))


def _plane(name: str) -> Plane:
    from ctseg.errors import UnknownName
    from ctseg.report.planes import PLANES

    for plane in PLANES:
        if plane == name:
            return plane
    raise UnknownName("plane", name, PLANES)


def _window(text: str | None) -> Window | None:
    from ctseg.errors import BadInput
    from ctseg.report.planes import WINDOWS

    if text is None or text in WINDOWS:
        return None if text is None else WINDOWS[text]
    try:
        low, high = (float(part) for part in text.split(","))
        if high > low:
            return low, high
    except ValueError:
        pass
    raise BadInput(
        f"'{text}' is no window.",
        hint=f"Write two values such as -160,240, or one of: {', '.join(WINDOWS)}.",
    )


def _write_mesh(shown: Display, task: Task, output: Path) -> None:
    from ctseg.report.meshes import EXTRA, write_mesh
    from ctseg.report.surface import surfaces_of

    values = {one.name: one.values for one in task.foreground}
    surfaces = surfaces_of(shown.layers[0].array, values, shown.volume.geometry, EXTRA)
    write_mesh(surfaces, task, output)
    ui.table(
        ["label", "ml", "triangles"],
        [[name, one.volume_mm3 / 1000, len(one.triangles)] for name, one in surfaces.items()],
    )


def _write_slices(
    shown: Display, task: Task, look: Look, plane: Plane, slices: str | None, output: Path
) -> None:
    """A mosaic or a film of the slices of one plane."""
    from ctseg.report.film import FILMS, frames, write_film
    from ctseg.report.overlay import draw_mosaic
    from ctseg.report.planes import canonical
    from ctseg.report.slices import choose_slices

    label = shown.layers[0].array if shown.layers else None
    array = canonical(shown.volume.array if label is None else label, shown.volume.geometry)
    film = output.suffix.lower() in FILMS
    text = slices if film or slices else "12"
    indices = choose_slices(text, plane, array, labelled=label is not None)
    if film:
        write_film(frames(shown.volume, label, task, look, plane, indices), output)
    else:
        draw_mosaic(shown.volume, label, task, look, (plane, indices), output)
