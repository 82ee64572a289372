"""Reading and writing volumes of any registered format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg import plugins
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import FormatSpec, ImageRef, Label, VolumeSource, VolumeWriter, Zyx
from ctseg.volume.channel_grids import on_grid_of
from ctseg.volume.formats.companion_files import without_companions
from ctseg.volume.formats.source import (
    check_box,
    check_file,
    check_slices,
    open_as,
    options_of,
    what_is,
)
from ctseg.volume.geometry import Geometry, check_same
from ctseg.volume.header import VolumeHeader
from ctseg.volume.volume import Volume

_ZARR = (".zarr", ".zarr.zip", ".ozx")
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")
"""Names of stores, for a hint if the plugin that reads them is not installed."""


def format_of(path: Path) -> FormatSpec | None:
    """The format that recognises a path; None where none does, or where the path is neither file nor folder."""
    try:
        if path.exists() and not what_is(path):  # reading the first bytes of a pipe would block
            return None
    except OSError:  # a name that is too long
        return None
    return next((spec for spec in plugins.formats() if spec.recognise(path)), None)


def scan_files(files: Iterable[Path]) -> list[Path]:
    """The files of known formats, without data files that belong to another file's header."""
    return without_companions(file for file in files if format_of(file) is not None)


def writer_format(path: Path) -> FormatSpec:
    """The format that writes a file of this name.

    Raises:
        BadInput: no writable format has the suffix.
    """
    name = path.name.lower()
    writable = [spec for spec in plugins.formats() if spec.writer is not None]
    for spec in writable:
        if any(name.endswith(suffix) and len(name) > len(suffix) for suffix in spec.suffixes):
            return spec
    raise BadInput(
        f"{path} has no suffix that ctseg can write.",
        hint="Use one of: " + ", ".join(spec.suffixes[0] for spec in writable if spec.suffixes),
    )


def open_volume(path: str | Path, *, format: str | None = None, **options: Any) -> VolumeSource:  # noqa: A002
    """Open a scan without reading its voxels.

    Args:
        path: file, or folder of DICOM slices.
        format: name of the format, if the path does not give it.
        options: options of the format, e.g. `dataset` for HDF5 and `series` for DICOM; `spacing` for all.

    Raises:
        FileProblem: missing, damaged, or of no known format.
        BadInput: the format does not have such an option.
    """
    path = Path(path)
    spec = plugins.format_named(format) if format else None
    kind = what_is(path)
    if spec is None and kind:
        spec = format_of(path)
    if spec is None:
        if kind != "folder":
            check_file(path)
        known = ", ".join(s for f in plugins.formats() for s in f.suffixes)
        what = (
            "holds no DICOM files and no numbered slices"
            if kind == "folder"
            else "has no known suffix"
        )
        hint = f"Known are: {known}, and folders of DICOM files or of pictures, one a slice."
        if path.name.lower().endswith(_ZARR) or any(
            (path / mark).is_file() for mark in _ZARR_MARKS
        ):
            hint = "Zarr is read by a plugin. Install it: pip install 'ctseg[zarr]'"
        raise FileProblem(f"{path} {what}.", hint=hint)
    strange = sorted(set(options) - set(options_of(spec)))
    if strange:
        known = ", ".join(options_of(spec))
        raise BadInput(
            f"The format {spec.name} has no option '{strange[0]}' (for {path}).",
            hint=f"Its options: {known}",
        )
    return open_as(spec, path, options)


def read(path: str | Path, *, format: str | None = None, **options: Any) -> Volume:  # noqa: A002
    """Read a scan: [Z, Y, X] if it has one channel, else [C, Z, Y, X]. Arguments as for `open_volume`."""
    source = open_volume(path, format=format, **options)
    try:
        array = source.read()
    finally:
        source.close()
    return Volume(array[0] if source.channels == 1 else array, source.geometry, source.metadata)


def write(
    volume: Volume,
    path: str | Path,
    *,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a volume in the format of the path's suffix; the file appears only when it is complete.

    Args:
        volume: [Z, Y, X] or [C, Z, Y, X].
        path: target file; an existing file is replaced.
        labels: names and colours of label values, for formats that hold them.
        reference: the scan that the volume belongs to, for formats that require it.
        options: options of the format's writer; see `ctseg.specs.FormatSpec.writer_options`.

    Raises:
        BadInput: the format or option does not exist, or the format cannot store the voxel type.
        FileProblem: the target cannot be written.
    """
    channels = volume.array.shape[0] if volume.array.ndim == 4 else None
    header = VolumeHeader(volume.geometry, volume.array.dtype, channels, labels, reference)
    writer = open_writer(Path(path), header, options)
    try:
        writer.write(0, volume.array)
        writer.commit()
    except BaseException:
        writer.abort()
        raise


def open_writer(
    path: Path,
    header: VolumeHeader,
    options: Mapping[str, Any] | None = None,
    spec: FormatSpec | None = None,
) -> VolumeWriter:
    """A writer for slabs; options and errors as for `write`.

    Args:
        spec: the format; that of the path's suffix by default.
    """
    spec = spec or writer_format(path)
    if spec.writer is None:
        raise BadInput(f"The format {spec.name} is read-only.")
    strange = sorted(set(options or {}) - set(spec.writer_options))
    if strange:
        known = ", ".join(spec.writer_options) or "none"
        raise BadInput(
            f"The format {spec.name} is not written with an option '{strange[0]}' (for {path}).",
            hint=f"Its options: {known}",
        )
    more: dict[str, Any] = dict(options or {})
    return spec.writer(
        path, header.geometry, header.dtype,
        channels=header.channels, labels=header.labels, reference=header.reference, **more,
    )  # fmt: skip


class SlicedSource:
    """A range of slices of another source; see `ctseg.specs.ImageRef.slices`.

    Args:
        source: the whole scan; closed with this source.
        slices: start and stop along z.

    Attributes:
        whole: the source that the slices belong to.
    """

    def __init__(self, source: VolumeSource, slices: tuple[int, int]) -> None:
        self.whole = source
        self._start, stop = check_slices(slices, source.geometry.shape_zyx[0], source.path)
        _, y, x = source.geometry.shape_zyx
        self.path = source.path
        self.geometry: Geometry = source.geometry.sub(
            (self._start, 0, 0), (stop - self._start, y, x)
        )
        self.channels = source.channels
        self.dtype = source.dtype
        self.by_region = source.by_region
        self.metadata: Mapping[str, Any] = source.metadata

    def read(self, slices: tuple[int, int] | None = None) -> NDArray[Any]:
        start, stop = check_slices(slices, self.geometry.shape_zyx[0], self.path)
        return self.whole.read((self._start + start, self._start + stop))

    def read_box(self, start_zyx: Zyx, stop_zyx: Zyx) -> NDArray[Any]:
        start, stop = check_box(start_zyx, stop_zyx, self.geometry.shape_zyx, self.path)
        first = self._start
        return self.whole.read_box((first + start[0], *start[1:]), (first + stop[0], *stop[1:]))

    def __reduce__(self) -> tuple[Any, ...]:
        return SlicedSource, (self.whole, (self._start, self._start + self.geometry.shape_zyx[0]))

    def close(self) -> None:
        self.whole.close()


def notes_of(sources: Sequence[VolumeSource]) -> list[str]:
    """The notes of opened scans, each once; with file names if there are several scans."""
    notes = []
    for source in sources:
        where = f"{source.path.name}: " if len(sources) > 1 else ""
        notes += [f"{where}{note}" for note in source.metadata.get("notes") or ()]
    return list(dict.fromkeys(notes))


def open_ref(ref: ImageRef) -> VolumeSource:
    """Open the image that a case refers to, limited to its slices if the reference names some.

    Raises:
        GeometryMismatch: the image has a grid of its own and cannot be brought onto that of `ref.onto`.
    """
    source = open_volume(ref.path, **ref.options)
    try:
        if ref.onto is not None:
            with contextlib.closing(open_ref(replace(ref.onto, slices=None))) as other:
                source = on_grid_of(source, other, ref.grid_tolerance)
        return source if ref.slices is None else SlicedSource(source, ref.slices)
    except BaseException:
        source.close()
        raise


def read_ref(ref: ImageRef) -> Volume:
    """Read the image that a case refers to, as [C, Z, Y, X]."""
    source = open_ref(ref)
    try:
        return Volume(source.read(), source.geometry, source.metadata)
    finally:
        source.close()


def read_images(images: Sequence[ImageRef]) -> Volume:
    """All channels of a case as one volume [C, Z, Y, X], in the order of the references.

    Raises:
        GeometryMismatch: the channels do not lie on one grid.
    """
    if not images:
        raise BadInput("A case needs at least one image.")
    volumes = [read_ref(ref) for ref in images]
    first = volumes[0]
    for ref, volume in zip(images[1:], volumes[1:], strict=True):
        check_same(
            volume.geometry,
            first.geometry,
            names=(str(ref.path), str(images[0].path)),
            files=(ref.path, images[0].path),
            tolerance=ref.grid_tolerance,
        )
    if len(volumes) == 1:
        return first
    return replace(first, array=np.concatenate([volume.array for volume in volumes]))
