"""NRRD headers: where the voxels are, and how ctseg writes them. Layout: teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctseg.errors import FileProblem
from ctseg.volume.formats.raw import Compression, Raw
from ctseg.volume.geometry import Geometry

_LIMIT = 1 << 20
_COMPRESSIONS: Mapping[str, Compression] = {
    "raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2",
}  # fmt: skip
_COLOURS = ("rgb-color", "rgba-color", "hsv-color", "xyz-color")
_TYPES = {
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32",
    "uint32": "uint32", "int64": "int64", "uint64": "uint64", "float32": "float", "float64": "double",
}  # fmt: skip
UNIT_KEY = "ctseg_unit"
"""Key-value pair with the unit to show; the numbers are millimetres, since readers overlook `space units`."""


def read_nrrd_header(path: Path) -> tuple[int, dict[str, str]]:
    """Offset of the first byte behind the header and its `field: value` lines, fields in lower case.

    Raises:
        FileProblem: no NRRD file, or colours.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(16).startswith(b"NRRD"):
            raise FileProblem(
                f"{path} is no NRRD file: it does not start with NRRD.",
                hint="Check what it is (file PATH) and give it the suffix of its format.",
            )
        while file.tell() < _LIMIT:
            line = file.readline(_LIMIT).decode("utf-8", "replace").strip()
            if not line:
                break
            key, mark, value = line.partition(":")
            if mark and not line.startswith("#") and not value.startswith("="):
                fields[key.strip().lower()] = value.strip()
            if (
                key.strip().lower().replace(" ", "") == "datafile"
                and value.strip().upper() == "LIST"
            ):
                break
        offset = file.tell()
    colours = [kind for kind in fields.get("kinds", "").lower().split() if kind in _COLOURS]
    if colours:
        raise FileProblem(
            f"{path} holds {colours[0]} voxels; a scan holds one real number a voxel.",
            hint="Convert it to a grey-scale volume first.",
        )
    return offset, fields


def raw_of(
    path: Path,
    offset: int,
    fields: Mapping[str, str],
    dtype: np.dtype[np.generic],
    shape_zyx: tuple[int, int, int],
    channels: int,
) -> Raw | None:
    """Where the voxels lie, None where they are text, in several files, or in another order of axes.

    Args:
        channels: 0 where the file has three axes.
    """
    compact = {key.replace(" ", ""): value for key, value in fields.items()}
    compression = _COMPRESSIONS.get(compact.get("encoding", "").lower())
    z, y, x = shape_zyx
    sizes = [str(size) for size in ((channels, x, y, z) if channels else (x, y, z))]
    if compression is None or compact.get("sizes", "").split() != sizes:
        return None
    file, start = path, offset
    if "datafile" in compact:
        name = compact["datafile"]
        if name.upper().startswith("LIST") or "%" in name:
            return None
        file, start = path.parent / name, 0
        if not file.is_file():
            raise FileProblem(
                f"{path} keeps its voxels in {name}, which does not lie beside it.",
                hint=f"Copy {Path(name).name} together with the .nhdr.",
            )
    start += _skipped_lines(file, start, int(compact.get("lineskip", "0")))
    skip = int(compact.get("byteskip", "0"))
    raw = Raw(
        file,
        dtype.newbyteorder(">" if compact.get("endian", "").lower() == "big" else "<"),
        shape_zyx,
        channels=channels or 1,
        interleaved=bool(channels),
        start=start,
        compression=compression,
        skip=max(skip, 0),
    )
    if skip < 0:  # the voxels are the last bytes of the file
        if compression:
            return None
        size = file.stat().st_size
        if size - start < raw.nbytes:
            raise EOFError(f"it has {size - start} of {raw.nbytes} bytes of voxels")
        return Raw(
            file,
            raw.dtype,
            shape_zyx,
            raw.channels,
            raw.interleaved,
            size - raw.nbytes,
        )
    return raw


def _skipped_lines(path: Path, start: int, lines: int) -> int:
    if lines <= 0:
        return 0
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(lines):
            file.readline(_LIMIT)
        return file.tell() - start


def make_nrrd_header(
    geometry: Geometry,
    dtype: np.dtype[np.generic],
    channels: int | None,
    fields: Mapping[str, str],
    *,
    compress: bool,
) -> bytes:
    """A header for little-endian voxels with the channels of a voxel side by side."""
    z, y, x = geometry.shape_zyx
    columns = geometry.matrix * np.asarray(geometry.spacing_xyz)
    directions = ["(" + ",".join(f"{v:.17g}" for v in column) + ")" for column in columns.T]
    origin = ",".join(f"{v:.17g}" for v in geometry.origin_xyz)
    first = channels is not None
    lines = [
        "NRRD0005",
        f"type: {_TYPES[dtype.name]}",
        f"dimension: {4 if first else 3}",
        "space: left-posterior-superior",
        f"sizes: {f'{channels} ' if first else ''}{x} {y} {z}",
        f"space directions: {'none ' if first else ''}{' '.join(directions)}",
        f"kinds: {'vector ' if first else ''}domain domain domain",
        *([] if dtype.itemsize == 1 else ["endian: little"]),
        f"encoding: {'gzip' if compress else 'raw'}",
        'space units: "mm" "mm" "mm"',
        f"space origin: ({origin})",
        *([f"{UNIT_KEY}:={geometry.unit}"] if geometry.unit != "mm" else []),
        *(f"{key}:={value}" for key, value in fields.items()),
    ]
    return ("\n".join(lines) + "\n\n").encode()


def space_unit(fields: Mapping[str, str], notes: Mapping[str, str]) -> str:
    """The unit of spacing and origin, or of what shows them: of `space units`, where all axes have the same."""
    units = {unit.strip('" ') for unit in fields.get("space units", "").split()}
    return units.pop() if len(units) == 1 else notes.get(UNIT_KEY, "mm")
