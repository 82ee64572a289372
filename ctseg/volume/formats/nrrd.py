"""NRRD: .nrrd for reading and writing, .nhdr with its data file for reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike, NDArray

from ctseg.errors import BadInput
from ctseg.specs import Label, VolumeSource
from ctseg.volume.formats import itk, paths
from ctseg.volume.formats.nrrd_header import (
    UNIT_KEY,
    make_nrrd_header,
    raw_of,
    read_nrrd_header,
    space_unit,
)
from ctseg.volume.formats.raw import RawSink
from ctseg.volume.formats.raw_source import raw_source
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.units import in_unit
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.geometry import Geometry


def open_nrrd(path: Path) -> Source:
    """Open an NRRD file; a vector axis is read as channels. Uncompressed files are read by region.

    Raises:
        FileProblem: missing, damaged, colours, or not three space axes.
    """
    check_file(path)
    with reading(path):
        offset, fields = read_nrrd_header(path)
    reader, geometry, dtype, channels = itk.open_3d(path, "NrrdImageIO")
    notes = itk.metadata(reader)
    geometry = in_unit(geometry, space_unit(fields, notes))
    if notes.get(UNIT_KEY) == "um":
        geometry = replace(geometry, unit="um")
    with reading(path):
        raw = raw_of(path, offset, fields, dtype, geometry.shape_zyx, channels)
        if raw is not None:
            raw.check_size()
            return raw_source(raw, path, geometry, dtype, metadata=notes)

    def load(start: int, stop: int) -> NDArray[Any]:
        # text, slices in files of their own, and permuted axes: ITK reads the whole
        return itk.read_whole(path, "NrrdImageIO", vector=bool(channels))[:, start:stop]

    return Source(
        path, geometry, dtype, load, channels=channels or 1, by_region=False, metadata=notes
    )


def write_nrrd(
    path: Path,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,  # noqa: ARG001
) -> Writer:
    """A writer of .nrrd that streams; with labels it is compressed and opens in 3D Slicer with names and colours."""
    if paths.suffix_of(path, paths.NRRD) == ".nhdr":
        raise BadInput(
            f"{path}: detached NRRD headers are not written.", hint="Use the suffix .nrrd"
        )
    stored = check_dtype(dtype, itk.DTYPES, format_name="NRRD")
    fields = itk.slicer_segments(labels, geometry) if channels is None else {}
    compress = bool(labels)
    header = make_nrrd_header(geometry, stored, channels, fields, compress=compress)
    return Writer(
        path,
        ".nrrd",
        geometry,
        stored,
        channels,
        lambda temporary: RawSink(temporary, header, compression="gzip" if compress else ""),
    )
