"""MetaImage headers: reading and writing. Layout: itk.org/Wiki/ITK/MetaIO.

ctseg reads headers itself because ITK trusts them: sizes that no file holds have made it hang or end the
process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats.affine import Affine
from ctseg.volume.formats.data_files import MOST_FILES, numbered
from ctseg.volume.formats.header_numbers import check_voxels, floats, integer, integers
from ctseg.volume.geometry import Geometry

_LIMIT = 1 << 20
_LINE = 1 << 16
_TYPES = {
    "int8": "MET_CHAR", "uint8": "MET_UCHAR", "int16": "MET_SHORT", "uint16": "MET_USHORT",
    "int32": "MET_INT", "uint32": "MET_UINT", "int64": "MET_LONG_LONG", "uint64": "MET_ULONG_LONG",
    "float32": "MET_FLOAT", "float64": "MET_DOUBLE",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _TYPES.items()} | {
    "MET_ASCII_CHAR": "int8", "MET_LONG": "int32", "MET_ULONG": "uint32",
}  # fmt: skip
_ALIASES = {
    "position": "offset", "origin": "offset", "rotation": "transformmatrix", "orientation": "transformmatrix",
    "elementbyteordermsb": "binarydatabyteordermsb",
}  # fmt: skip
_STRUCTURE = {
    "objecttype", "ndims", "binarydata", "binarydatabyteordermsb", "compresseddata", "compresseddatasize",
    "transformmatrix", "offset", "centerofrotation", "elementspacing", "elementsize", "dimsize", "headersize",
    "elementnumberofchannels", "elementtype", "elementdatafile",
}  # fmt: skip
UNIT_KEY = "CtsegUnit"
"""Key of the unit to show; the numbers are millimetres, since ITK ignores `DistanceUnits`."""
_SIZE_KEY = "CompressedDataSize = "


@dataclass(frozen=True)
class MetaHeader:
    """A header as text.

    Attributes:
        offset: first byte after it.
        fields: values by key in lower case; of keys with synonyms the first one.
        names: keys as they are written in the file.
        files: names of the files with the voxels; empty if the voxels follow the header.
    """

    offset: int
    fields: Mapping[str, str]
    names: Mapping[str, str]
    files: tuple[str, ...]

    @property
    def notes(self) -> dict[str, str]:
        """The fields of the header besides grid and voxels."""
        return {
            self.names[key]: value for key, value in self.fields.items() if key not in _STRUCTURE
        }

    def is_true(self, key: str, default: str = "false") -> bool:
        return self.fields.get(key, default).lower() in ("true", "t", "1")


def read_metaimage_header(path: Path) -> MetaHeader:
    """The `Key = Value` lines up to ElementDataFile, and the list of files if one follows.

    Raises:
        FileProblem: not a MetaImage file.
        ValueError: lines that are too long, or an invalid list of files.
    """
    fields: dict[str, str] = {}
    names: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < _LIMIT:
            line = file.readline(_LINE)
            key, mark, value = re.match(rb"([^=:]*)([=:]?)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
            if not mark or len(line) == _LINE:
                break
            name = key.decode("latin-1").strip()
            lower = _ALIASES.get(name.lower(), name.lower())
            fields.setdefault(lower, value.decode("latin-1").strip())
            names.setdefault(lower, name)
            if lower == "elementdatafile":
                listed = file.read(_LIMIT) if _is_list(fields[lower]) else b""
                files = _files(fields, listed.decode("utf-8", "surrogateescape"))
                return MetaHeader(file.tell(), fields, names, files)
    raise FileProblem(
        f"{path} is not a MetaImage file: it has no ElementDataFile line.",
        hint="Check what it is (file PATH) and give it the suffix of its format.",
    )


def _is_list(value: str) -> bool:
    return value.upper() == "LIST" or value.upper().startswith("LIST ")


def _files(fields: Mapping[str, str], listed: str) -> tuple[str, ...]:
    value = fields["elementdatafile"]
    if value.upper() == "LOCAL":
        return ()
    if _is_list(value):
        names = [line.strip() for line in listed.splitlines()]
        return tuple(name for name in names if name)[:MOST_FILES]
    name, *range_words = value.rsplit(maxsplit=3)
    while range_words and not all(re.fullmatch(r"[+-]?\d+", word) for word in range_words):
        name, range_words = f"{name} {range_words[0]}", range_words[1:]
    if "%" not in name:
        return (value,)
    last_axis = integer((fields.get("dimsize") or "1").split()[-1], "DimSize", 1)
    numbers = [integer(word, "range of files", -MOST_FILES, MOST_FILES) for word in range_words]
    first, last, step = (*numbers, *(1, (numbers or [1])[0] + last_axis - 1, 1)[len(numbers) :])
    return tuple(numbered(name, first, last, step))


@dataclass(frozen=True)
class MetaGrid:
    """Grid and voxel type from a header.

    Attributes:
        channels: numbers per voxel; 0 if the header does not mention channels or gives one.
    """

    affine: Affine
    dtype: np.dtype[np.generic]
    channels: int
    notes: tuple[str, ...]


def grid_of(path: Path, header: MetaHeader) -> MetaGrid:
    """Size, type and position of the voxels. Axes of one voxel beyond the third are dropped, the last one first.

    Raises:
        FileProblem: there are not three axes, or voxels are not real numbers.
        ValueError: invalid numbers.
    """
    fields = header.fields
    dims = integer(fields.get("ndims", ""), "NDims", 1, 10)
    sizes = integers(fields.get("dimsize", ""), "DimSize", dims, 1)
    name = fields.get("elementtype", "").upper()
    if name not in _DTYPES:
        raise FileProblem(
            f"{path} holds voxels of the ElementType '{name[:40]}'; a scan holds one real number per voxel.",
            hint=f"It reads: {', '.join(_DTYPES)}",
        )
    channels = integer(fields.get("elementnumberofchannels") or "1", "ElementNumberOfChannels", 1)
    check_voxels([*sizes, channels], path)
    notes = []
    if "elementspacing" not in fields and "elementsize" not in fields:
        notes.append("the header has no ElementSpacing; voxels of 1 mm are assumed")
    spacing = floats(
        fields.get("elementspacing", fields.get("elementsize", "1 " * dims)), "ElementSpacing", dims
    )
    origin = floats(fields.get("offset", "0 " * dims), "Offset", dims)
    words = fields.get("transformmatrix")
    matrix = np.eye(dims) if words is None else _matrix(words, dims)
    matrix = matrix * np.asarray(spacing)
    spatial = _three(path, dims, sizes)
    rows = _rows(matrix, spatial)
    x, y, z = (sizes[axis] for axis in spatial)
    affine = Affine((z, y, x), matrix[np.ix_(rows, spatial)], np.asarray(origin)[rows])
    return MetaGrid(affine, np.dtype(_DTYPES[name]), channels if channels > 1 else 0, tuple(notes))


def _matrix(words: str, dims: int) -> NDArray[np.float64]:
    """The matrix with a column per array axis; a header writes one array axis after another."""
    return np.reshape(floats(words, "TransformMatrix", dims * dims), (dims, dims)).T


def _three(path: Path, dims: int, sizes: list[int]) -> list[int]:
    """The three axes of the volume."""
    spatial = list(range(dims))
    for axis in reversed(range(dims)):
        if len(spatial) > 3 and sizes[axis] == 1:
            spatial.remove(axis)
    if len(spatial) > 3:
        raise FileProblem(
            f"{path} has {dims} axes of {tuple(sizes)} voxels (x, y, z, ...); a volume has three.",
            hint="Store one file per time step, or the channels as a vector image.",
        )
    if len(spatial) < 3:
        raise FileProblem(
            f"{path} has {dims} axes; a volume has three.", hint="Stack the slices into one file."
        )
    return spatial


def _rows(matrix: NDArray[np.float64], spatial: list[int]) -> list[int]:
    """The space axes that remain when dropped array axes take theirs along."""
    rows = list(range(len(matrix)))
    for axis in set(range(len(matrix))) - set(spatial):
        rows.remove(max(rows, key=lambda row: abs(float(matrix[row, axis]))))
    return rows


def make_metaimage_header(
    geometry: Geometry, dtype: np.dtype[np.generic], channels: int | None, *, compress: bool
) -> tuple[bytes, int | None]:
    """A header for little-endian voxels, and the offset of the compressed size, which is filled in later."""
    z, y, x = geometry.shape_zyx

    def words(values: object) -> str:
        return " ".join(f"{v:.17g}" for v in np.ravel(np.asarray(values, np.float64)))

    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {compress}",
        *([_SIZE_KEY + " " * 20] if compress else []),
        f"TransformMatrix = {words(geometry.matrix.T)}",  # one array axis after another
        f"Offset = {words(geometry.origin_xyz)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {words(geometry.spacing_xyz)}",
        *([f"{UNIT_KEY} = {geometry.unit}"] if geometry.unit != "mm" else []),
        f"DimSize = {x} {y} {z}",
        *([f"ElementNumberOfChannels = {channels}"] if channels is not None else []),
        f"ElementType = {_TYPES[dtype.name]}",
        "ElementDataFile = LOCAL",
    ]
    header = ("\n".join(lines) + "\n").encode()
    return header, header.index(_SIZE_KEY.encode()) + len(_SIZE_KEY) if compress else None
