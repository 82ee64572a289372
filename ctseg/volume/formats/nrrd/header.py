"""NRRD headers: reading and writing. Layout: teem.sourceforge.net/nrrd/format.html.

ctseg reads headers itself because ITK's reader ends the process on some malformed lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ctseg.errors import FileProblem
from ctseg.volume.formats.data_files import MOST_FILES, numbered
from ctseg.volume.formats.header_numbers import integer
from ctseg.volume.geometry import Geometry

_LIMIT = 1 << 24
_LINE = 1 << 20
_TYPES = {
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32",
    "uint32": "uint32", "int64": "int64", "uint64": "uint64", "float32": "float", "float64": "double",
}  # fmt: skip
UNIT_KEY = "ctseg_unit"
"""Key of the unit to show; the numbers are millimetres, since readers ignore `space units`."""


@dataclass(frozen=True)
class NrrdHeader:
    """A header as text.

    Attributes:
        offset: first byte after it.
        fields: `field: value`, with fields in lower case without blanks.
        notes: `key:=value`.
        files: names of the files with the voxels; empty if the voxels follow the header.
    """

    offset: int
    fields: Mapping[str, str]
    notes: Mapping[str, str]
    files: tuple[str, ...]


def read_nrrd_header(path: Path) -> NrrdHeader:
    """The lines of a header.

    Raises:
        FileProblem: not an NRRD file, a line that is too long or meaningless, or a field that occurs twice.
        ValueError: an invalid list of files.
    """
    fields: dict[str, str] = {}
    notes: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(16).startswith(b"NRRD"):
            raise FileProblem(
                f"{path} is not an NRRD file: it does not start with NRRD.",
                hint="Check what it is (file PATH) and give it the suffix of its format.",
            )
        for number, line in enumerate(_lines(file, path), start=2):
            key, mark, value = line.partition(":")
            if value.startswith("="):
                notes[_plain(key)] = _plain(value[1:])
                continue
            name = re.sub(r"\s", "", key).lower()
            if not mark or not name or name in fields:
                what = (
                    f"names '{key[:40]}' twice" if name in fields else f"is no field: '{line[:40]}'"
                )
                raise FileProblem(
                    f"{path}: line {number} of its header {what}.",
                    hint="The header is damaged; export or copy the scan again.",
                )
            fields[name] = value.strip()
            if name == "datafile" and value.split()[:1] == ["LIST"]:
                break  # the names follow
        offset = file.tell()
        files = _files(fields.get("datafile"), file)
    return NrrdHeader(offset, fields, notes, files)


def _lines(file: IO[bytes], path: Path) -> list[str]:
    """The lines up to the empty one, or to the list of files, without comments."""
    lines: list[str] = []
    while True:
        if file.tell() > _LIMIT:
            raise FileProblem(
                f"{path}: its header does not end within {_LIMIT} bytes.",
                hint="The header is damaged; export or copy the scan again.",
            )
        line = file.readline(_LINE)
        if len(line) == _LINE:
            raise FileProblem(
                f"{path}: its header has a line of more than {_LINE} bytes.",
                hint="The header is damaged; export or copy the scan again.",
            )
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return lines
        if not text.startswith("#"):
            lines.append(text)
        if re.match(r"data ?file:\s*LIST(\s|$)", text, re.IGNORECASE):
            return lines


def _plain(text: str) -> str:
    """Key or value with its escape sequences decoded."""
    return re.sub(r"\\([\\n])", lambda m: "\n" if m[1] == "n" else "\\", text)


def _files(value: str | None, file: IO[bytes]) -> tuple[str, ...]:
    if value is None:
        return ()
    if value.split()[:1] == ["LIST"]:
        names = file.read(_LIMIT).decode("utf-8", "surrogateescape").splitlines()
        return tuple(name.strip() for name in names if name.strip())[:MOST_FILES]
    words = value.split()
    if "%" in value and len(words) >= 4:
        first, last, step = (
            integer(word, "range of files", -MOST_FILES, MOST_FILES) for word in words[1:4]
        )
        return tuple(numbered(words[0], first, last, step))
    return (value,)


def make_nrrd_header(
    geometry: Geometry,
    dtype: np.dtype[np.generic],
    channels: int | None,
    fields: Mapping[str, str],
    *,
    compress: bool,
) -> bytes:
    """A header for little-endian voxels, with the channels of a voxel side by side."""
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
