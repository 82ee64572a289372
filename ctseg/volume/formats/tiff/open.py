"""TIFF stacks. They store spacing and unit, as ImageJ and OME write them, but no origin or direction."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from ctseg.errors import CtsegError, FileProblem
from ctseg.volume.formats import paths
from ctseg.volume.formats.calibration import calibration_of_option, grid_of, is_assumed
from ctseg.volume.formats.handle import Handle
from ctseg.volume.formats.outside import is_allowed
from ctseg.volume.formats.raw import Raw
from ctseg.volume.formats.raw_source import raw_source
from ctseg.volume.formats.source import AGAIN, ScanHeader, Source, check_file, reading
from ctseg.volume.formats.tiff import metadata
from ctseg.volume.formats.tiff.grey_values import scaling_of
from ctseg.volume.formats.tiff.ome import Ome, read_ome
from ctseg.volume.formats.tiff.structure import check_structure
from ctseg.volume.formats.writer import DTYPES, Writer, check_dtype
from ctseg.volume.header import VolumeHeader

_BIG = 2 * 1024**3
_STACK_AXES = "ZIQT"
"""Axes that may hold a stack's slices: writers without metadata leave them unnamed, and ImageJ calls them time."""


def open_tiff(
    path: Path, *, spacing: str | None = None, like: str | None = None, outside: str = "no"
) -> Source:
    """Open a stack of grey pages, [Z, Y, X], or a hyperstack with channels, [C, Z, Y, X].

    Args:
        path: the file.
        spacing: voxel size x, y, z, e.g. `0.7 0.7 2.5` in mm or `5um`, which replaces that of the file.
        like: a scan of the same shape whose grid is used if the file has no voxel size.
        outside: `yes` also reads files outside the folder that OME-XML names.

    Raises:
        FileProblem: missing, damaged, colour pictures, more axes than a volume has, or grey values that ImageJ
            calibrated otherwise than by a straight line.
    """
    allowed = is_allowed(outside)
    check_file(path)
    with tiff_errors(path):
        pages = check_structure(path)
        tif = tifffile.TiffFile(path)
        try:
            ome = _ome(tif, path, pages, allowed=allowed)
            if ome is not None and ome.text is not None:
                tif.close()
                tif = tifffile.TiffFile(path, omexml=ome.text)
            series = _only_series(tif, path)
            dtype = np.dtype(series.dtype)
            if dtype.kind not in "biuf":
                raise FileProblem(f"{path} holds {dtype}, which are not real numbers.")
            scaling = scaling_of(tif, dtype, path)
            axes, shape = _axes(series, path)
            _check_complete(tif, series, ome, path)
            sizes = dict(zip(axes, shape, strict=True))
            if spacing is not None:
                voxel_size = calibration_of_option(spacing)
            else:
                pixels = None if ome is None else ome.pixels()
                voxel_size = metadata.calibration(tif, pixels, path)
            geometry, about = grid_of(path, (sizes["Z"], sizes["Y"], sizes["X"]), voxel_size, like)
        except BaseException:
            tif.close()
            raise
    paged = len(series.pages) == int(np.prod(shape[:-2]))
    offset = series.dataoffset
    channels = sizes.get("C", 1)
    if offset is not None and axes in ("ZYX", "CZYX", "ZYXC"):
        stored = dtype.newbyteorder("<" if tif.byteorder == "<" else ">")
        tif.close()  # the voxels form one block, of which any box can be read directly
        raw = Raw(
            path, stored, geometry.shape_zyx, channels, interleaved=axes == "ZYXC", start=offset
        )
        return raw_source(raw, path, geometry, about, scaling=scaling)
    text = None if ome is None else ome.text
    opened = Handle(lambda: tifffile.TiffFile(path, omexml=text), tif)

    def load(start: int, stop: int) -> NDArray[Any]:
        with tiff_errors(path):
            file = opened.get()
            part: NDArray[Any]
            if paged:
                index = np.arange(int(np.prod(shape[:-2]))).reshape(shape[:-2])
                keep = np.take(index, range(start, stop), axis=axes.index("Z"))
                part = file.asarray(key=keep.ravel().tolist(), series=0)
                part = part.reshape(*keep.shape, *shape[-2:])
            else:
                part = file.series[0].asarray().reshape(shape)
                part = np.take(part, range(start, stop), axis=axes.index("Z"))
        if scaling is not None:
            part = scaling.convert(part)
        if "C" not in axes:
            return part[None]
        return part if axes.startswith("C") else np.moveaxis(part, axes.index("C"), 0)

    values = dtype if scaling is None else scaling.dtype
    header = ScanHeader(geometry, values, channels, by_region=paged, metadata=about)
    return Source(path, header, load, close=opened.close)


def _ome(tif: tifffile.TiffFile, path: Path, pages: int, *, allowed: bool) -> Ome | None:
    """The checked OME-XML of a file; None if it has none."""
    text = tif.ome_metadata
    return None if text is None else read_ome(text, path, pages, allowed=allowed)


def _only_series(tif: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """The scan of a file; small pictures besides it, such as a thumbnail, are ignored.

    Raises:
        FileProblem: several pictures may be the scan, or parts of it.
    """
    first, *others = tif.series
    like = [s for s in others if s.shape[-2:] == first.shape[-2:] or s.size >= first.size]
    if like:
        raise FileProblem(
            f"{path} holds {len(like) + 1} pictures or stacks, the first of shape {first.shape}; a scan is one.",
            hint="Pages that were written one by one are no stack: store them as one, e.g. in Fiji.",
        )
    return first


def _axes(series: tifffile.TiffPageSeries, path: Path) -> tuple[str, tuple[int, ...]]:
    """Axis letters of C, Z, Y, X and their sizes; other axes of one voxel are dropped."""
    pairs = [
        ("Z" if axis in _STACK_AXES else axis, size)
        for axis, size in zip(series.axes, series.shape, strict=True)
        if size > 1 or axis in "ZYXC"
    ]
    letters = "".join(axis for axis, _ in pairs)
    if "S" in letters:
        raise FileProblem(
            f"{path} holds colour pages; a scan holds one number per voxel.",
            hint="Convert it to grey values first, e.g. in Fiji: Image > Type > 16-bit.",
        )
    if letters.count("Z") > 1 or not set(letters) <= set("CZYX") or letters[-2:] != "YX":
        raise FileProblem(
            f"{path} has the axes {series.axes} of {series.shape} voxels; a volume has Z, Y, X and maybe channels."
        )
    if "Z" not in letters:
        pairs.insert(-2, ("Z", 1))
    return "".join(axis for axis, _ in pairs), tuple(size for _, size in pairs)


def _check_complete(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, ome: Ome | None, path: Path
) -> None:
    """Detect missing pages of a stack, which tifffile only logs."""
    size = path.stat().st_size
    if series.dataoffset is not None and size < series.dataoffset + series.nbytes:
        raise EOFError(f"it has {size} of {series.dataoffset + series.nbytes} bytes")
    missing = sum(page is None for page in series.pages)
    if missing:
        raise EOFError(f"{missing} of its {len(series.pages)} pages are missing")
    pages = math.prod(series.shape[:-2])
    announced = pages
    if ome is not None:
        announced = ome.planes()
    elif tif.is_imagej:
        announced = int((tif.imagej_metadata or {}).get("images", 1))
    elif tif.is_shaped and (shaped := tif.shaped_metadata):
        announced = math.prod(shaped[0].get("shape", (pages, 1, 1))[:-2])
    if announced > max(pages, 1):
        raise EOFError(f"it has {pages} of {announced} pages")


@contextmanager
def tiff_errors(path: Path) -> Iterator[None]:
    """Turn errors of tifffile and its codecs into a `FileProblem`.

    Its log messages on stderr are silenced: ctseg raises an error for those that matter.
    """
    logger = logging.getLogger("tifffile")
    before = logger.disabled
    logger.disabled = True
    try:
        with reading(path):
            yield
    except (CtsegError, MemoryError):
        raise
    except Exception as error:  # tifffile raises errors of any kind for damage, even AssertionError
        message = str(error).strip().splitlines() or [type(error).__name__]
        raise FileProblem(
            f"{path} cannot be read; it is truncated or damaged: {message[-1]}.", hint=AGAIN
        ) from error
    finally:
        logger.disabled = before


class _TiffSink:
    """Streams pages, with the channels of one slice after another, as ImageJ orders them."""

    def __init__(self, temporary: Path, header: VolumeHeader) -> None:
        geometry, channels = header.geometry, header.channels
        nbytes = int(np.prod(geometry.shape_zyx)) * (channels or 1) * header.dtype.itemsize
        self._writer = tifffile.TiffWriter(temporary, bigtiff=nbytes > _BIG, byteorder="<")
        self._description: str | None = metadata.description(
            geometry, channels, is_assumed=is_assumed(header)
        )
        self._resolution = metadata.resolution(geometry)
        self._compression = "zlib" if header.labels else None

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        for pages in np.moveaxis(slab_czyx, 0, 1):
            for page in pages:
                self._writer.write(
                    page,
                    photometric="minisblack",
                    description=self._description,
                    resolution=self._resolution,
                    resolutionunit="NONE",
                    compression=self._compression,
                    metadata=None,
                    software=False,
                )
                self._description = None

    def finish(self) -> None:
        self._writer.close()

    def discard(self) -> None:
        self._writer.close()


def write_tiff(path: Path, header: VolumeHeader) -> Writer:
    """A writer of a stack that ImageJ opens with its voxel size, in pixels if that is an assumption.

    Origin and direction are lost: TIFF has no field.
    """
    dtype = check_dtype(header.dtype, (*DTYPES, "float16"), format_name="TIFF")
    stored = replace(header, dtype=dtype)
    suffix = paths.suffix_of(path, paths.TIFF) or paths.TIFF[0]
    return Writer(path, suffix, stored, lambda temporary: _TiffSink(temporary, stored))
