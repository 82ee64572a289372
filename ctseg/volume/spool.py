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


def by_region(source: VolumeSource, folder: Path | None = None) -> VolumeSource:
    """The source itself where it reads by region, else one that reads an unpacked copy.

    Formats of one block of voxels are unpacked a few megabytes at a time; others are read whole once.

    Args:
        source: stays open, and stays the caller's to close.
        folder: where the copy goes, the system's temporary folder by default. Closing the new source deletes it, as
            does the end of the process.

    Raises:
        FileProblem: a damaged file, or a full disk.
    """
    if source.by_region:
        return source
    handle, name = tempfile.mkstemp(prefix="ctseg-", suffix=".raw", dir=folder)
    os.close(handle)
    target = Path(name)
    try:
        with disk_errors(target), reading(source.path):
            unpack = getattr(source, "unpack", None)
            out = _whole(source, target) if unpack is None else unpack(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    weakref.finalize(out, target.unlink, missing_ok=True)
    return out


def _whole(source: VolumeSource, target: Path) -> Source:
    array = source.read()
    with target.open("wb") as file:
        for channel in array:
            for plane in channel:
                file.write(np.ascontiguousarray(plane).data)
    raw = Raw(target, source.dtype, source.geometry.shape_zyx, source.channels)
    return raw_source(
        raw,
        source.path,
        source.geometry,
        source.dtype,
        metadata=source.metadata,
        close=lambda: target.unlink(missing_ok=True),
    )
