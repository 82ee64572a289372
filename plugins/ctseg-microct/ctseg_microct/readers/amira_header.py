"""The text before the voxels of an AmiraMesh file, read as data and checked against bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctseg.specs import Zyx
from ctseg.volume.formats.header_numbers import check_voxels, floats, integer, integers

MOST_HEADER = 1 << 22
"""Most bytes before the first data section."""
_TYPES = {
    "byte": "u1", "short": "i2", "ushort": "u2", "int": "i4", "int32": "i4", "uint": "u4", "int64": "i8",
    "float": "f4", "double": "f8",
}  # fmt: skip
_LATTICE = re.compile(
    rb"^[ \t]*Lattice[ \t]*\{[ \t]*(\w+)[ \t]*(?:\[[ \t]*(\d{1,4})[ \t]*\])?[ \t]*\"?([\w. -]{0,80}?)\"?[ \t]*\}"
    rb"[ \t]*=?[ \t]*@(\d{1,4})[ \t]*(?:\([ \t]*(\w+)[ \t]*(?:,[ \t]*(\d{1,18}))?[ \t]*\))?",
    re.M,
)
_MAGIC = re.compile(
    rb"#\s*(?:AmiraMesh|Avizo)\s*(?:3D\s+)?(BINARY-LITTLE-ENDIAN|BINARY|ASCII)\b", re.I
)


@dataclass(frozen=True)
class AmiraHeader:
    """What an AmiraMesh file says of its first lattice.

    Attributes:
        shape_zyx: number of voxels.
        dtype: as stored.
        components: numbers per voxel.
        encoding: empty, `hxbyterle` or `hxzip`.
        encoded_bytes: size of encoded voxels; 0 if it is not stated.
        start: first byte of the voxels.
        is_text: whether they are decimal numbers.
        box: x, y, z of the first voxel's centre and the last one's, alternating; None if it is not stated.
        unit: unit of the coordinates; empty if it is not stated.
        materials: names of labels 0, 1, ...
    """

    shape_zyx: Zyx
    dtype: np.dtype[Any]
    components: int
    encoding: str
    encoded_bytes: int
    start: int
    is_text: bool
    box: tuple[float, ...] | None
    unit: str
    materials: tuple[str, ...]

    def labels(self) -> dict[str, Any]:
        """Metadata with the names of labels, if the lattice holds materials."""
        if not self.materials or self.dtype.kind not in "iu" or self.components > 1:
            return {}
        return {"labels": {name: value for value, name in enumerate(self.materials)}}


def read_amira_header(path: Path) -> AmiraHeader:
    """Parse the header.

    Raises:
        ValueError: it is damaged, or has no uniform lattice of three dimensions; for use within `reading`.
    """
    with path.open("rb") as file:
        data = file.read(MOST_HEADER)
    magic = _MAGIC.match(data)
    if magic is None:
        raise ValueError("its first line is not that of an AmiraMesh file")
    kind = magic[1].upper()
    head = re.search(rb"^\s*@\d+[ \t]*\r?\n", data, re.M)
    if head is None:
        raise ValueError("no data section begins in its first 4 MiB")
    text = data[: head.start()]
    lattice = _LATTICE.search(text)
    if lattice is None:
        raise ValueError("it declares no lattice of voxels")
    section = re.search(rb"^[ \t]*@" + lattice[4] + rb"[ \t]*\r?\n", data, re.M)
    if section is None:
        raise ValueError(f"its data section @{lattice[4].decode()} is missing")
    encoding = (lattice[5] or b"").decode().lower()
    if encoding not in ("", "hxbyterle", "hxzip"):
        raise ValueError(f"its encoding '{encoding[:20]}' is not known")
    number = lattice[1].decode().lower()
    if number not in _TYPES:
        raise ValueError(f"its voxels are '{number[:20]}', not numbers")
    if encoding == "hxbyterle" and number != "byte":
        raise ValueError("run lengths of other numbers than bytes are not known")
    size = integer((lattice[6] or b"0").decode(), "encoded size", 0)
    if size > path.stat().st_size - section.end():
        raise EOFError(f"it has {path.stat().st_size - section.end()} of {size} bytes of voxels")
    components = integer((lattice[2] or b"1").decode(), "number of components", 1, 1024)
    plain = text.decode("utf-8", "replace")
    return AmiraHeader(
        _shape(plain),
        np.dtype(("<" if b"LITTLE" in kind else ">") + _TYPES[number]),
        components,
        encoding,
        size,
        section.end(),
        kind == b"ASCII",
        _box(plain),
        _unit(plain),
        _materials(plain),
    )


def _shape(text: str) -> Zyx:
    match = re.search(r"^\s*define\s+Lattice\s+([\d \t]{1,80})", text, re.M)
    if match is None:
        raise ValueError("it does not define the size of its lattice")
    x, y, z = integers(match[1], "size of the lattice", 3, 1)
    check_voxels((z, y, x), "its header")
    kind = re.search(r'CoordType\s+"(\w{1,40})"', text)
    if kind is not None and kind[1].lower() != "uniform":
        raise ValueError(f"its coordinates are '{kind[1]}', not uniform")
    return z, y, x


def _box(text: str) -> tuple[float, ...] | None:
    match = re.search(r"BoundingBox\s+([-+\d.eE \t]{1,300})", text)
    return None if match is None else tuple(floats(match[1], "BoundingBox", 6))


def _unit(text: str) -> str:
    match = re.search(r'Units\s*\{[^{}]{0,400}?Coordinates\s+"([^"\n]{0,40})"', text)
    return match[1] if match else ""


def _materials(text: str) -> tuple[str, ...]:
    """Names of the materials in their order, which is that of the label values."""
    match = re.search(r"\bMaterials\s*\{", text)
    if match is None:
        return ()
    names, depth, word = list[str](), 1, ""
    for part in re.findall(r'"[^"\n]*"|[{}]|[^\s{}",]+', text[match.end() :]):
        if part == "{":
            if depth == 1 and word:
                names.append(word)
            depth += 1
        elif part == "}":
            depth -= 1
            if depth == 0:
                break
        elif depth == 1:
            word = part.strip('"')
    return tuple(names)
