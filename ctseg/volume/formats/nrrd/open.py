"""NRRD: .nrrd for reading and writing, .nhdr with its data file for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Zyx
from ctseg.volume.formats import paths
from ctseg.volume.formats.affine import check_straighten, straight_grid
from ctseg.volume.formats.data_files import data_file
from ctseg.volume.formats.header_numbers import integer
from ctseg.volume.formats.layers import by_segment
from ctseg.volume.formats.nrrd.grid import NrrdGrid, grid_of
from ctseg.volume.formats.nrrd.header import (
    UNIT_KEY,
    NrrdHeader,
    make_nrrd_header,
    read_nrrd_header,
)
from ctseg.volume.formats.raw import Compression, Raw, RawSink
from ctseg.volume.formats.raw_source import raw_source, with_surplus
from ctseg.volume.formats.source import ScanHeader, Source, check_file, reading
from ctseg.volume.formats.straighten import straightened
from ctseg.volume.formats.text_source import pieces_source, text_source
from ctseg.volume.formats.units import in_unit
from ctseg.volume.formats.writer import DTYPES, Writer, check_dtype
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader
from ctseg.volume.labels import slicer_segments

_COMPRESSIONS: Mapping[str, Compression] = {
    "raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2",
}  # fmt: skip
_TEXT = {"text": False, "txt": False, "ascii": False, "hex": True}
_LINES = 1 << 20


def open_nrrd(path: Path, *, straighten: str = "no", data_folder: str | None = None) -> Source:
    """Open an NRRD file; a vector axis is read as channels. Uncompressed files are read by region.

    A segmentation of 3D Slicer in several layers is read as one channel per segment.

    Args:
        path: the header file.
        straighten: `yes` resamples a sheared grid onto one that is not, linearly; `nearest` does so for label maps.
        data_folder: a folder that may contain the data file at any depth, besides that of the header.

    Raises:
        FileProblem: missing, damaged, sheared, colours, or not three space axes.
    """
    how = check_straighten(straighten)
    check_file(path)
    with reading(path):
        header = read_nrrd_header(path)
        grid = grid_of(path, header)
        straight = straight_grid(path, grid.affine, how)
        geometry = in_unit(straight.geometry, grid.unit)
        if header.notes.get(UNIT_KEY) == "um":
            geometry = replace(geometry, unit="um")
        stored = geometry if straight.skew is None else Geometry(grid.affine.shape_zyx)
        source = by_segment(_stored(path, header, grid, stored, data_folder))
        return straightened(source, replace(straight, geometry=geometry), how)


def _stored(
    path: Path, header: NrrdHeader, grid: NrrdGrid, geometry: Geometry, data_folder: str | None
) -> Source:
    """A source of the voxels as they are stored."""
    notes = {**header.notes, "notes": list(grid.notes)}
    files = [data_file(path, name, data_folder) for name in header.files]
    if grid.channels and grid.channel_axis in (1, 2):
        return _within(path, header, grid, geometry, files)
    raw = _raw(path, files, header, grid, geometry.shape_zyx)
    encoding = header.fields.get("encoding", "").lower()
    if encoding in _TEXT:
        return text_source(raw, path, geometry, notes, hexadecimal=_TEXT[encoding])
    if len(files) > 1:
        if grid.channels and not raw.interleaved:
            raise FileProblem(
                f"{path} has channels in separate files, which ctseg does not join.",
                hint="Read the files one by one, as the channels of a scan: a,b",
            )

        def piece(file: Path, shape_zyx: Zyx) -> Raw:
            return _raw(path, [file], header, grid, shape_zyx)

        return pieces_source(files, path, geometry, notes, piece)
    raw.check_size()
    return raw_source(raw, path, geometry, with_surplus(notes, raw))


def _within(
    path: Path, header: NrrdHeader, grid: NrrdGrid, geometry: Geometry, files: list[Path]
) -> Source:
    """A source of a file whose channels lie between the space axes, read as rows or slices of one channel."""
    if len(files) > 1 or header.fields.get("encoding", "").lower() in _TEXT:
        raise FileProblem(
            f"{path} has its channels between other axes, in text or several files, which is not supported.",
            hint="Store the channels as the first axis.",
        )
    z, y, x = geometry.shape_zyx
    count, rows = grid.channels, grid.channel_axis == 1
    one_channel = (z, y * count, x) if rows else (z * count, y, x)
    raw = _raw(path, files, header, replace(grid, channels=0), one_channel)
    raw.check_size()

    def load(start: int, stop: int) -> NDArray[Any]:
        if rows:
            return np.moveaxis(raw.slices(start, stop)[0].reshape(-1, y, count, x), 2, 0)
        slices = raw.slices(start * count, stop * count)[0]
        return np.moveaxis(slices.reshape(-1, count, y, x), 1, 0)

    metadata = {**header.notes, "notes": list(grid.notes)}
    return Source(path, ScanHeader(geometry, raw.dtype, count, not raw.compression, metadata), load)


def _raw(
    path: Path, files: Sequence[Path], header: NrrdHeader, grid: NrrdGrid, shape_zyx: Zyx
) -> Raw:
    """The block of voxels: after the header, or in the first of the data files.

    Raises:
        FileProblem: the encoding is unknown.
        EOFError: bytes are missing.
        ValueError: invalid numbers.
    """
    fields = header.fields
    encoding = fields.get("encoding", "").lower()
    if encoding not in _COMPRESSIONS and encoding not in _TEXT:
        raise FileProblem(
            f"{path} has the unknown encoding '{encoding[:40]}'.",
            hint=f"NRRD knows: {', '.join((*_COMPRESSIONS, *_TEXT))}",
        )
    endian = fields.get("endian", "").lower()
    bytes_matter = grid.dtype.itemsize > 1 and (encoding in _COMPRESSIONS or _TEXT[encoding])
    if endian not in ("little", "big") and (endian or bytes_matter):
        raise FileProblem(
            f"{path} does not say the byte order of its voxels, which take {grid.dtype.itemsize} bytes each.",
            hint="Add the correct line to its header: 'endian: little' or 'endian: big'.",
        )
    file, start = (files[0], 0) if files else (path, header.offset)
    start += _skipped_lines(file, start, integer(fields.get("lineskip") or "0", "line skip", 0))
    skip = integer(fields.get("byteskip") or "0", "byte skip", -(1 << 46))
    raw = Raw(
        file,
        grid.dtype.newbyteorder(">" if endian == "big" else "<"),
        shape_zyx,
        channels=grid.channels or 1,
        interleaved=bool(grid.channels) and grid.channel_axis == 0,
        start=start,
        compression=_COMPRESSIONS.get(encoding, ""),
        skip=max(skip, 0),
    )
    if skip >= 0:
        return raw
    if encoding != "raw":
        raise FileProblem(
            f"{path} counts its voxels from the end of the file (byte skip {skip}), which {encoding} does not allow.",
            hint="Export the scan again.",
        )
    # -1: the voxels are the last bytes of the file; -2, -3, ... leave bytes after them
    first = file.stat().st_size - raw.nbytes + skip + 1
    if first < start:
        raise EOFError(f"it has {file.stat().st_size - start} of {raw.nbytes} bytes of voxels")
    return replace(raw, start=first)


def _skipped_lines(path: Path, start: int, lines: int) -> int:
    if lines > _LINES:
        raise ValueError(f"its line skip is {lines}, more than {_LINES}")
    if not lines:
        return 0
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(lines):
            if not file.readline(_LINES):
                raise EOFError("it ends within the lines to be skipped")
        return file.tell() - start


def write_nrrd(path: Path, header: VolumeHeader) -> Writer:
    """A writer of .nrrd that streams; with labels it is compressed and opens in 3D Slicer with names and colours."""
    if paths.suffix_of(path, paths.NRRD) == ".nhdr":
        raise BadInput(
            f"{path}: detached NRRD headers are not written.", hint="Use the suffix .nrrd"
        )
    stored = replace(header, dtype=check_dtype(header.dtype, DTYPES, format_name="NRRD"))
    geometry, channels = header.geometry, header.channels
    fields = slicer_segments(header.labels, geometry) if channels is None else {}
    compress = bool(header.labels)
    text = make_nrrd_header(geometry, stored.dtype, channels, fields, compress=compress)
    return Writer(
        path,
        ".nrrd",
        stored,
        lambda temporary: RawSink(temporary, text, compression="gzip" if compress else ""),
    )
