"""MetaImage: .mha for reading and writing, .mhd with its data file for reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike, NDArray

from ctseg.errors import BadInput
from ctseg.specs import Label, VolumeSource
from ctseg.volume.formats import itk, paths
from ctseg.volume.formats.metaimage_header import (
    UNIT_KEY,
    data_file,
    make_metaimage_header,
    raw_of,
    read_metaimage_header,
)
from ctseg.volume.formats.raw import RawSink
from ctseg.volume.formats.raw_source import raw_source
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.units import in_unit
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.geometry import Geometry


def open_metaimage(path: Path) -> Source:
    """Open a MetaImage file; several element channels are read as channels. Uncompressed ones are read by region.

    Raises:
        FileProblem: missing, damaged, or not three axes.
    """
    check_file(path)
    with reading(path):
        offset, fields = read_metaimage_header(path)
        data_file(path, offset, fields)
    reader, geometry, dtype, channels = itk.open_3d(path, "MetaImageIO")
    geometry = in_unit(geometry, fields.get("distanceunits", "mm"))
    if fields.get(UNIT_KEY.lower()) == "um":
        geometry = replace(geometry, unit="um")
    notes = itk.metadata(reader)
    with reading(path):
        raw = raw_of(path, offset, fields, dtype, geometry.shape_zyx, channels)
        if raw is not None:
            raw.check_size()
            return raw_source(raw, path, geometry, dtype, metadata=notes)

    def load(start: int, stop: int) -> NDArray[Any]:
        # slices in files of their own, and text: ITK reads the whole
        return itk.read_whole(path, "MetaImageIO", vector=bool(channels))[:, start:stop]

    return Source(
        path, geometry, dtype, load, channels=channels or 1, by_region=False, metadata=notes
    )


def write_metaimage(
    path: Path,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,  # noqa: ARG001
) -> Writer:
    """A writer of .mha that streams; compressed where it holds labels."""
    if paths.suffix_of(path, paths.METAIMAGE) == ".mhd":
        raise BadInput(f"{path}: two-file MetaImages are not written.", hint="Use the suffix .mha")
    stored = check_dtype(dtype, itk.DTYPES, format_name="MetaImage")
    compress = bool(labels)
    header, size_at = make_metaimage_header(geometry, stored, channels, compress=compress)
    return Writer(
        path,
        ".mha",
        geometry,
        stored,
        channels,
        lambda temporary: RawSink(
            temporary, header, compression="zlib" if compress else "", size_at=size_at
        ),
    )
