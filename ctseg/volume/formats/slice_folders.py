"""Folders of slices: one grey TIFF or PNG per slice, in the order of the numbers in their names."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Zyx
from ctseg.volume.formats import paths
from ctseg.volume.formats.calibration import (
    Calibration,
    calibration_of_option,
    grid_of,
    is_assumed,
    unknown_spacing,
)
from ctseg.volume.formats.pictures import PICTURES, slice_files, slice_numbers
from ctseg.volume.formats.source import ScanHeader, Source, check_file, reading
from ctseg.volume.formats.tiff import metadata
from ctseg.volume.formats.tiff.grey_values import scaling_of
from ctseg.volume.formats.tiff.ome import read_ome
from ctseg.volume.formats.tiff.open import tiff_errors
from ctseg.volume.formats.tiff.structure import check_structure
from ctseg.volume.formats.writer import DTYPES, Writer, check_dtype
from ctseg.volume.header import VolumeHeader

_DEFLATED = 1032
"""Largest compression ratio of deflate."""


def open_slices(
    path: Path, *, spacing: str | None = None, gaps: str = "no", like: str | None = None
) -> Source:
    """Open a folder of pictures as one scan; slices are read one by one.

    Args:
        path: the folder.
        spacing: voxel size x, y, z, e.g. `0.7 0.7 2.5` in mm or `5um`; by default that of the first TIFF, or 1 mm.
        gaps: `yes` accepts names whose numbers have gaps, or of which none rises; otherwise they are refused.
        like: a scan of the same shape whose grid is used if the slices have no voxel size.

    Raises:
        FileProblem: no such pictures, missing numbers, several scans, colours, slices that differ in size, or grey
            values that ImageJ calibrated otherwise than by a straight line.
    """
    if gaps not in ("yes", "no"):
        raise BadInput(f"The option gaps of a folder of slices is 'yes' or 'no', not '{gaps}'.")
    if not path.is_dir():
        raise FileProblem(
            f"{path} is not a folder of slices.", hint="Name the folder, not a file in it."
        )
    files = slice_files(path)
    if not files:
        raise FileProblem(
            f"{path} holds no pictures whose names differ only in their numbers.",
            hint=f"Slices are named like scan_0001.tif; they end in one of: {', '.join(PICTURES)}",
        )
    if gaps == "no":
        _check_numbers(files, path)
    first = _picture(files[0])
    dtype, shape = first.dtype.newbyteorder("="), first.shape
    calibration = calibration_of_option(spacing) if spacing is not None else _calibration(files[0])
    geometry, about = grid_of(path, (len(files), *shape), calibration, like)

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        out = np.empty((1, *(b - a for a, b in zip(start, stop, strict=True))), dtype)
        for index, file in enumerate(files[start[0] : stop[0]]):
            plane = _picture(file)
            if plane.shape != shape or plane.dtype.newbyteorder("=") != dtype:
                raise FileProblem(
                    f"{file} has {plane.shape} voxels of {plane.dtype} where {files[0].name} has {shape} of {dtype}.",
                    hint="Keep the slices of one scan in a folder of their own.",
                )
            out[0, index] = plane[start[1] : stop[1], start[2] : stop[2]]
        return out

    return Source(
        path,
        ScanHeader(geometry, dtype, metadata={"files": [str(file) for file in files], **about}),
        lambda start, stop: load_box((start, 0, 0), (stop, *shape)),
        load_box=load_box,
    )


def _check_numbers(files: Sequence[Path], path: Path) -> None:
    """Find missing or repeated slices, by each number that varies among the names.

    If several numbers vary, e.g. an index and a position, one that rises without gaps suffices: positions may be
    uneven. A gap is a step that differs from the usual one by half of it or more, as positions may be rounded.
    """
    columns = zip(*slice_numbers(files), strict=True)
    running = [[b - a for a, b in pairwise(column)] for column in columns if len(set(column)) > 1]
    rising = [steps for steps in running if min(steps) > 0]
    if len(running) > 1 and not rising:
        raise FileProblem(
            f"{path}: several numbers vary in the names of the slices, {files[0].name} to {files[-1].name}, and none "
            "rises from slice to slice: are these several scans?",
            hint="Keep one scan in a folder, or take them as one scan with the option gaps=yes.",
        )
    if running and not rising:
        at = running[0].index(min(running[0]))
        raise FileProblem(
            f"{path}: {files[at].name} and {files[at + 1].name} have the same number.",
            hint="Keep one file per slice.",
        )
    gaps = min((_gaps(steps) for steps in rising), key=len, default=[])
    if gaps:
        at = gaps[0]
        raise FileProblem(
            f"{path}: {len(gaps)} gaps in the numbers of the slices, the first between {files[at].name} and "
            f"{files[at + 1].name}.",
            hint="Copy the missing slices, or take them as they are with the option gaps=yes.",
        )


def _gaps(steps: Sequence[Decimal]) -> list[int]:
    usual = median_low(steps)
    return [at for at, step in enumerate(steps) if abs(step - usual) >= usual / 2]


def _picture(file: Path) -> NDArray[Any]:
    """One slice as [Y, X]."""
    check_file(file)
    with reading(file):
        if paths.suffix_of(file, (".png",)):
            content = file.read_bytes()
            _check_png(content)
            try:
                plane = np.asarray(imagecodecs.png_decode(content))
            except imagecodecs.PngError as error:
                raise ValueError(str(error)) from error
        else:
            with tiff_errors(file):
                pages = check_structure(file)
                if pages != 1:
                    raise FileProblem(
                        f"{file} has {pages} pages; a slice has one.",
                        hint="Name the file itself: it is a stack.",
                    )
                with tifffile.TiffFile(file) as tif:
                    plane = np.asarray(tif.pages.first.asarray())
                    scaling = scaling_of(tif, plane.dtype, file)
                    if scaling is not None:
                        plane = scaling.convert(plane)
    if plane.ndim != 2 or plane.dtype.kind not in "biuf":
        raise FileProblem(
            f"{file} is a colour picture of shape {plane.shape}; a scan holds one number per voxel.",
            hint="Convert the slices to grey values first, e.g. in Fiji: Image > Type > 16-bit.",
        )
    return plane


def _check_png(content: bytes) -> None:
    """Detect a PNG that is truncated or damaged, or declares more than its bytes can hold (PNG, third edition, 5.3).

    libpng would say some of it on standard error.
    """
    at, kind = 8, b""
    while kind != b"IEND":
        if at + 12 > len(content):
            raise EOFError("it is not a complete PNG picture")
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 8 + length
        if end + 4 > len(content):
            raise EOFError(f"its block {kind!r} ends beyond the file")
        if zlib.crc32(memoryview(content)[at + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise ValueError(f"its block {kind!r} has another checksum than the file says")
        at = end + 4
    if content[12:16] != b"IHDR":
        raise EOFError("it is not a complete PNG picture")
    width, height, bits = struct.unpack_from(">IIB", content, 16)
    if width * height * bits > 8 * len(content) * _DEFLATED * 4:  # up to four numbers per pixel
        raise EOFError(f"it is too small for {width} x {height} pixels")


def _calibration(file: Path) -> Calibration:
    if paths.suffix_of(file, paths.TIFF) is None:
        return unknown_spacing("PNG pictures do not say it")
    with tiff_errors(file), tifffile.TiffFile(file) as tif:
        ome = read_ome(tif.ome_metadata, file, 1, allowed=False) if tif.ome_metadata else None
        return metadata.calibration(tif, None if ome is None else ome.pixels(), file)


class _SlicesSink:
    """Streams slices into files of a new folder, each with its spacing, as ImageJ reads it."""

    def __init__(self, temporary: Path, header: VolumeHeader) -> None:
        temporary.mkdir()
        self._folder = temporary
        geometry = header.geometry
        _, y, x = geometry.shape_zyx
        one_slice = geometry.sub((0, 0, 0), (1, y, x))
        self._digits = max(4, len(str(geometry.shape_zyx[0] - 1)))
        self._options: dict[str, Any] = {
            "photometric": "minisblack",
            "description": metadata.description(one_slice, None, is_assumed=is_assumed(header)),
            "resolution": metadata.resolution(geometry),
            "resolutionunit": "NONE",
            "compression": "zlib" if header.labels else None,
            "metadata": None,
            "software": False,
        }

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        for index, plane in enumerate(slab_czyx[0], start=start):
            tifffile.imwrite(
                self._folder / f"slice_{index:0{self._digits}d}.tif",
                plane,
                byteorder="<",
                **self._options,
            )

    def finish(self) -> None: ...

    def discard(self) -> None: ...


def write_slices(path: Path, header: VolumeHeader) -> Writer:
    """A writer of a new folder with one TIFF per slice, `slice_0000.tif` and so on. Origin and direction are lost.

    Raises:
        BadInput: several channels, or a type that TIFF does not support.
        FileProblem: a folder of that name exists and is not empty.
    """
    if header.channels is not None:
        raise BadInput(
            f"{path}: a folder of slices holds one channel, not {header.channels}.",
            hint="Write a format that holds several, such as .tif or .h5",
        )
    dtype = check_dtype(header.dtype, (*DTYPES, "float16"), format_name="TIFF")
    stored = replace(header, dtype=dtype)
    return Writer(
        path,
        "",
        stored,
        lambda temporary: _SlicesSink(temporary, stored),
        folder=lambda _: False,
    )
