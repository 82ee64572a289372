"""Writing NIfTI slab by slab: the header from SimpleITK, the voxels in the order of the file."""

from __future__ import annotations

import gzip
import shutil
import struct
import tempfile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctseg.volume.formats import itk
from ctseg.volume.formats.nifti_orientation import MICROMETRE, NiftiOrientation
from ctseg.volume.geometry import Geometry

_COMPRESSION = 4
"""As small as the default within a few percent on CT and label maps, in about half the time."""


class NiftiSink:
    """Streams voxels behind a header; see `ctseg.volume.formats.writer.FormatSink`.

    Channels are the slowest axis of a NIfTI file. Plain files are written at any place; compressed ones of
    several channels wait in an uncompressed temporary file until all is there.
    """

    def __init__(
        self,
        temporary: Path,
        header: bytes,
        dtype: np.dtype[Any],
        geometry: Geometry,
        *,
        gz: bool,
    ) -> None:
        self._offset = len(header)
        self._plane = geometry.shape_zyx[1] * geometry.shape_zyx[2] * dtype.itemsize
        self._depth = geometry.shape_zyx[0]
        self._file = temporary.open("wb")
        self._gzip: gzip.GzipFile | None = None
        self._spool: IO[bytes] | None = None
        if gz:
            # No name and no time in the gzip header: the same volume gives the same bytes.
            self._gzip = gzip.GzipFile("", "wb", _COMPRESSION, self._file, mtime=0)
            if struct.unpack_from("<h", header, 48)[0] > 1:
                spool = tempfile.TemporaryFile(dir=temporary.parent)  # noqa: SIM115
                self._spool = cast(IO[bytes], spool)
        self._out: IO[bytes] = self._spool or cast(IO[bytes], self._gzip or self._file)
        self._out.write(header)

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        little = slab_czyx.astype(slab_czyx.dtype.newbyteorder("<"), copy=False)
        for channel, slab in enumerate(little):
            if len(little) > 1:
                self._out.seek(self._offset + (channel * self._depth + start) * self._plane)
            self._out.write(np.ascontiguousarray(slab).data)

    def finish(self) -> None:
        if self._spool is not None and self._gzip is not None:
            self._spool.seek(0)
            shutil.copyfileobj(self._spool, self._gzip, 1 << 22)
        self._close()

    def discard(self) -> None:
        self._close()

    def _close(self) -> None:
        try:
            if self._gzip is not None:
                self._gzip.close()
        finally:
            self._file.close()
            if self._spool is not None:
                self._spool.close()


def make_nifti_header(
    geometry: Geometry,
    dtype: np.dtype[Any],
    channels: int | None,
    orientation: NiftiOrientation | None = None,
) -> bytes:
    """The bytes in front of the voxels: what SimpleITK writes for one voxel on this grid, the size filled in.

    Micrometre volumes keep their unit: their numbers are stored in micrometres and marked so.

    Args:
        channels: along the fourth axis; None for three axes.
        orientation: of another file on this grid, which counts instead.
    """
    micro = geometry.unit == "um"
    factor = 1000.0 if micro else 1.0
    sx, sy, sz = (v * factor for v in geometry.spacing_xyz)
    ox, oy, oz = (v * factor for v in geometry.origin_xyz)
    one = Geometry((1, 1, 1), (sx, sy, sz), (ox, oy, oz), geometry.direction)
    image = itk.to_image(np.zeros((1, 1, 1), dtype), one)
    # not beside the result: whoever kills the process must not find a file there that looks like one
    with tempfile.TemporaryDirectory(prefix="ctseg-") as folder, itk.quiet():
        path = Path(folder) / "header.nii"
        sitk.WriteImage(image, str(path))
        raw = bytearray(path.read_bytes()[: -dtype.itemsize])
    z, y, x = geometry.shape_zyx
    dims = (3, x, y, z, 1) if channels is None else (4, x, y, z, channels)
    struct.pack_into("<5h", raw, 40, *dims)
    if channels is not None:
        struct.pack_into("<f", raw, 92, 1.0)  # pixdim[4]: ITK refuses a channel axis of spacing 0
    if micro:
        raw[123] = MICROMETRE
    if orientation is not None:
        orientation.write_into(raw)
    return bytes(raw)
