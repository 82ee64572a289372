"""Scans that cannot be read by region, such as gzip-compressed ones, unpacked into a temporary file."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import numpy as np

from ctseg.files import disk_errors
from ctseg.specs import VolumeSource
from ctseg.volume.formats.raw import Raw
from ctseg.volume.formats.raw_source import raw_source
from ctseg.volume.formats.source import Source, reading
from ctseg.volume.scratch import reserve

OPEN_FILES = Path("/proc/self/fd")
"""Folder in which Linux lists a process's open files, with and without names."""


def by_region(source: VolumeSource, folder: Path | None = None) -> VolumeSource:
    """The source itself if it reads by region, else one that reads an unpacked copy.

    Formats with one block of voxels are unpacked a few megabytes at a time; others are read whole, once.

    Args:
        source: stays open; the caller closes it.
        folder: folder of the copy, by default the system's temporary folder. The copy is deleted when the new source is
            closed or the process ends; on Linux even if it is killed.

    Raises:
        FileProblem: a damaged file.
        DiskFull: the copy would not fit, which is checked first.
    """
    if source.by_region:
        return source
    spool = Spool(folder)
    try:
        out = unpacked(source, spool)
    except BaseException:
        spool.close()
        raise
    weakref.finalize(out, spool.close)
    return out


def unpacked(source: VolumeSource, spool: Spool) -> Source:
    """A copy of the source on a spool, which stays the caller's."""
    with reading(source.path):
        unpack = getattr(source, "unpack", None)
        out: Source = _whole(source, spool) if unpack is None else unpack(spool)
    # an option may have changed both since the file was opened
    out.geometry, out.metadata = source.geometry, source.metadata
    return out


def _whole(source: VolumeSource, spool: Spool) -> Source:
    array = source.read()
    spool.reserve(array.nbytes)
    for channel in array:
        for plane in channel:
            spool.write(np.ascontiguousarray(plane).data.cast("B"))
    raw = Raw(spool.path, source.dtype, source.geometry.shape_zyx, source.channels)
    return raw_source(raw, source.path, source.geometry, source.metadata, close=spool.close)


class Spool:
    """A temporary file that is unlinked while it is open, where the system can read it without a name.

    Nothing remains even if the process is killed. On other systems it is deleted when it is closed.

    Attributes:
        path: path under which this process and its forks read it.

    Raises:
        FileProblem: the folder does not accept a file.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._place = Path(folder or tempfile.gettempdir())
        with disk_errors(self._place):
            self._descriptor, name = tempfile.mkstemp(prefix=".ctseg-", suffix=".raw", dir=folder)
        self._name: Path | None = Path(name)
        self.path = self._name
        open_file = OPEN_FILES / str(self._descriptor)
        if open_file.exists():
            self._name.unlink()
            self._name, self.path = None, open_file

    def reserve(self, size: int) -> None:
        with disk_errors(self._place, needed=size):
            reserve(self._descriptor, size)

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        with disk_errors(self._place):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def close(self) -> None:
        """Delete it; calling this again does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        if self._name is not None:
            self._name.unlink(missing_ok=True)
            self._name = None
