"""NRRD: .nrrd for reading and writing, .nhdr with its data file for reading. Layout: teem.sourceforge.net/nrrd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label, VolumeSource
from ctseg.volume.formats import itk, paths
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.geometry import Geometry

_HEADER_LIMIT = 1 << 20


def open_nrrd(path: Path) -> Source:
    """Open an NRRD file; a vector axis is read as channels.

    Raises:
        FileProblem: missing, damaged, or not three space axes.
    """
    check_file(path)
    with reading(path):
        offset, fields = _header(path)
    reader, geometry, dtype, channels = itk.open_3d(path, "NrrdImageIO")
    z, y, x = geometry.shape_zyx
    shape = (z, y, x, channels) if channels else (z, y, x)
    stored = dtype.newbyteorder(">" if fields.get("endian") == "big" else "<")
    plain = (
        fields.get("encoding") == "raw"
        and not any(key.replace(" ", "") in ("datafile", "lineskip", "byteskip") for key in fields)
        and _sizes(fields) == tuple(reversed(shape))
    )

    def load(start: int, stop: int) -> NDArray[Any]:
        if not plain:
            whole = itk.read_slices(reader, 0, z, vector=bool(channels))
            return whole[:, start:stop]
        # ITK reads the whole of an NRRD file whatever is asked for; the file system does not.
        part = np.memmap(path, stored, "r", offset, shape)[start:stop]
        return np.moveaxis(part, -1, 0) if channels else part[None]

    return Source(
        path,
        geometry,
        dtype,
        load,
        channels=channels or 1,
        by_region=plain,
        metadata=itk.metadata(reader),
    )


def _header(path: Path) -> tuple[int, dict[str, str]]:
    """Offset of the voxels and the `field: value` lines of the header."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(16).startswith(b"NRRD"):
            raise FileProblem(
                f"{path} is no NRRD file: it does not start with NRRD.",
                hint="Check what it is (file PATH) and give it the suffix of its format.",
            )
        while file.tell() < _HEADER_LIMIT:
            line = file.readline(_HEADER_LIMIT).decode("utf-8", "replace").strip()
            if not line:
                break
            key, mark, value = line.partition(":")
            if mark and not line.startswith("#") and not value.startswith("="):
                fields[key.strip().lower()] = value.strip()
        return file.tell(), fields


def _sizes(fields: dict[str, str]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in fields.get("sizes", "").split())
    except ValueError:
        return ()


def write_nrrd(
    path: Path,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,  # noqa: ARG001
) -> Writer:
    """A writer of .nrrd; with labels it is compressed and opens in 3D Slicer as a named, coloured segmentation."""
    if paths.suffix_of(path, paths.NRRD) == ".nhdr":
        raise BadInput(
            f"{path}: detached NRRD headers are not written.", hint="Use the suffix .nrrd"
        )
    stored = check_dtype(dtype, itk.DTYPES, format_name="NRRD")
    fields = itk.slicer_segments(labels, geometry) if channels is None else {}
    return Writer(
        path,
        ".nrrd",
        geometry,
        stored,
        channels,
        lambda temporary: itk.GatherSink(
            temporary, geometry, stored, channels, compress=bool(labels), fields=fields
        ),
    )
