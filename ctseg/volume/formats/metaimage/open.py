"""MetaImage: .mha for reading and writing, .mhd with its data file for reading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ctseg.errors import BadInput
from ctseg.specs import Zyx
from ctseg.volume.formats import paths
from ctseg.volume.formats.affine import check_straighten, straight_grid
from ctseg.volume.formats.data_files import data_file
from ctseg.volume.formats.header_numbers import integer
from ctseg.volume.formats.metaimage.header import (
    UNIT_KEY,
    MetaGrid,
    MetaHeader,
    grid_of,
    make_metaimage_header,
    read_metaimage_header,
)
from ctseg.volume.formats.raw import Raw, RawSink
from ctseg.volume.formats.raw_source import raw_source, with_surplus
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.straighten import straightened
from ctseg.volume.formats.text_source import pieces_source, text_source
from ctseg.volume.formats.units import in_unit
from ctseg.volume.formats.writer import DTYPES, Writer, check_dtype
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader


def open_metaimage(path: Path, *, straighten: str = "no", data_folder: str | None = None) -> Source:
    """Open a MetaImage file; element channels are read as channels. Uncompressed files are read by region.

    Args:
        path: the header file.
        straighten: `yes` resamples a sheared grid onto one that is not, linearly; `nearest` does so for label maps.
        data_folder: a folder that may contain the data file at any depth, besides that of the header.

    Raises:
        FileProblem: missing, damaged, sheared, or not three axes.
    """
    how = check_straighten(straighten)
    check_file(path)
    with reading(path):
        header = read_metaimage_header(path)
        grid = grid_of(path, header)
        straight = straight_grid(path, grid.affine, how)
        unit = header.fields.get("distanceunits", "mm")
        geometry = in_unit(straight.geometry, unit)
        if header.fields.get(UNIT_KEY.lower()) == "um":
            geometry = replace(geometry, unit="um")
        stored = geometry if straight.skew is None else Geometry(grid.affine.shape_zyx)
        source = _stored(path, header, grid, stored, data_folder)
        return straightened(source, replace(straight, geometry=geometry), how)


def _stored(
    path: Path, header: MetaHeader, grid: MetaGrid, geometry: Geometry, data_folder: str | None
) -> Source:
    """A source of the voxels as they are stored."""
    notes = {**header.notes, "notes": list(grid.notes)}
    files = [data_file(path, name, data_folder) for name in header.files]
    start = header.offset if not files else 0
    raw = _raw(files[0] if files else path, start, header, grid, geometry.shape_zyx)
    if not header.is_true("binarydata", "true"):
        return text_source(raw, path, geometry, notes, hexadecimal=False)
    if len(files) > 1:

        def piece(file: Path, shape_zyx: Zyx) -> Raw:
            return _raw(file, 0, header, grid, shape_zyx)

        return pieces_source(files, path, geometry, notes, piece)
    raw.check_size()
    return raw_source(raw, path, geometry, with_surplus(notes, raw))


def _raw(file: Path, start: int, header: MetaHeader, grid: MetaGrid, shape_zyx: Zyx) -> Raw:
    """The block of voxels in a file.

    Raises:
        EOFError: bytes are missing.
    """
    fields = header.fields
    compressed = header.is_true("compresseddata")
    raw = Raw(
        file,
        grid.dtype.newbyteorder(">" if header.is_true("binarydatabyteordermsb") else "<"),
        shape_zyx,
        channels=grid.channels or 1,
        interleaved=bool(grid.channels),
        start=start,
        compression="zlib" if compressed else "",
    )
    skip = integer(fields.get("headersize") or "0", "HeaderSize", -1)
    size = file.stat().st_size
    if compressed:
        needed = integer(fields.get("compresseddatasize") or "0", "CompressedDataSize", 0)
        if len(header.files) < 2 and size - start < needed:
            raise EOFError(f"it has {size - start} of {needed} bytes of voxels")
    elif skip:  # -1: the voxels are the last bytes of the file
        start = size - raw.nbytes if skip < 0 else start + skip
        if start < (0 if header.files else header.offset):
            raise EOFError(f"it has {size} of {raw.nbytes} bytes of voxels")
        return replace(raw, start=start)
    return raw


def write_metaimage(path: Path, header: VolumeHeader) -> Writer:
    """A writer of .mha that streams; with labels the file is compressed."""
    if paths.suffix_of(path, paths.METAIMAGE) == ".mhd":
        raise BadInput(f"{path}: two-file MetaImages are not written.", hint="Use the suffix .mha")
    stored = replace(header, dtype=check_dtype(header.dtype, DTYPES, format_name="MetaImage"))
    compress = bool(header.labels)
    text, size_at = make_metaimage_header(
        stored.geometry, stored.dtype, stored.channels, compress=compress
    )
    return Writer(
        path,
        ".mha",
        stored,
        lambda temporary: RawSink(
            temporary, text, compression="zlib" if compress else "", size_at=size_at
        ),
    )
