"""MetaImage headers: where the voxels are, and how ctseg writes them. Layout: itk.org/Wiki/ITK/MetaIO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctseg.errors import FileProblem
from ctseg.volume.formats.raw import Raw
from ctseg.volume.geometry import Geometry

_LIMIT = 1 << 16
_TYPES = {
    "int8": "MET_CHAR", "uint8": "MET_UCHAR", "int16": "MET_SHORT", "uint16": "MET_USHORT",
    "int32": "MET_INT", "uint32": "MET_UINT", "int64": "MET_LONG_LONG", "uint64": "MET_ULONG_LONG",
    "float32": "MET_FLOAT", "float64": "MET_DOUBLE",
}  # fmt: skip
UNIT_KEY = "CtsegUnit"
"""Key with the unit to show; the numbers are millimetres, since ITK does not apply `DistanceUnits`."""
_SIZE_KEY = "CompressedDataSize = "


def read_metaimage_header(path: Path) -> tuple[int, dict[str, str]]:
    """Offset of the first byte behind ElementDataFile and the `Key = value` lines, keys in lower case.

    Raises:
        FileProblem: no MetaImage file.
    """
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < _LIMIT:
            key, mark, value = file.readline(4096).decode("latin-1").partition("=")
            if not mark:
                break
            fields[key.strip().lower()] = value.strip()
            if "elementdatafile" in fields:
                return file.tell(), fields
    raise FileProblem(
        f"{path} is no MetaImage file: it has no ElementDataFile line.",
        hint="Check what it is (file PATH) and give it the suffix of its format.",
    )


def data_file(path: Path, offset: int, fields: Mapping[str, str]) -> tuple[Path, int] | None:
    """The file with the voxels and where they start in it; None for slices in files of their own.

    Raises:
        FileProblem: the data file that the header names is missing.
    """
    name = fields["elementdatafile"]
    if name.upper() in ("LOCAL", "LIST") or name.upper().startswith("LIST ") or "%" in name:
        return (path, offset) if name.upper() == "LOCAL" else None
    data = path.parent / name
    if not data.is_file():
        raise FileProblem(
            f"{path} keeps its voxels in {name}, which does not lie beside it.",
            hint="Copy the .raw or .zraw file together with the .mhd.",
        )
    return data, 0


def raw_of(
    path: Path,
    offset: int,
    fields: Mapping[str, str],
    dtype: np.dtype[np.generic],
    shape_zyx: tuple[int, int, int],
    channels: int,
) -> Raw | None:
    """Where the voxels lie, None where they are text or in several files.

    Args:
        channels: 0 for one number a voxel.

    Raises:
        FileProblem: the data file is missing.
        EOFError: a compressed block is shorter than the header says.
    """
    place = data_file(path, offset, fields)
    binary = fields.get("binarydata", "true").lower() == "true"
    if place is None or not binary:
        return None
    file, start = place
    big = any(
        fields.get(key, "false").lower() == "true"
        for key in ("binarydatabyteordermsb", "elementbyteordermsb")
    )
    compressed = fields.get("compresseddata", "false").lower() == "true"
    raw = Raw(
        file,
        dtype.newbyteorder(">" if big else "<"),
        shape_zyx,
        channels=channels or 1,
        interleaved=bool(channels),
        start=start,
        compression="zlib" if compressed else "",
    )
    skip = int(fields.get("headersize", "0"))
    size = file.stat().st_size
    if compressed:
        needed, there = int(fields.get("compresseddatasize") or 0), size - start
        if there < needed:
            raise EOFError(f"it has {there} of {needed} bytes of voxels")
    elif skip:  # -1: the voxels are the last bytes of the file
        start = size - raw.nbytes if skip < 0 else start + skip
        if start < 0:
            raise EOFError(f"it has {size} of {raw.nbytes} bytes of voxels")
        return Raw(file, raw.dtype, shape_zyx, raw.channels, raw.interleaved, start)
    return raw


def make_metaimage_header(
    geometry: Geometry, dtype: np.dtype[np.generic], channels: int | None, *, compress: bool
) -> tuple[bytes, int | None]:
    """A header for little-endian voxels, and where in it the compressed size is to be filled in."""
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
        f"TransformMatrix = {words(geometry.matrix.T)}",  # one axis of the array after another
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
