"""MetaImage: .mha for reading and writing, .mhd with its data file for reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike, NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label, VolumeSource
from ctseg.volume.formats import itk, paths
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.geometry import Geometry

_HEADER_LIMIT = 1 << 16


def open_metaimage(path: Path) -> Source:
    """Open a MetaImage file; several element channels are read as channels.

    Raises:
        FileProblem: missing, damaged, or not three axes.
    """
    check_file(path)
    with reading(path):
        fields = _header(path)
        _check_data(path, fields)
    reader, geometry, dtype, channels = itk.open_3d(path, "MetaImageIO")
    compressed = fields.get("compresseddata", "").lower() == "true"
    depth = geometry.shape_zyx[0]

    def load(start: int, stop: int) -> NDArray[Any]:
        if compressed:
            return itk.read_slices(reader, 0, depth, vector=bool(channels))[:, start:stop]
        return itk.read_slices(reader, start, stop, vector=bool(channels))

    return Source(
        path,
        geometry,
        dtype,
        load,
        channels=channels or 1,
        by_region=not compressed,
        metadata=itk.metadata(reader),
    )


def _header(path: Path) -> dict[str, str]:
    """The `Key = value` lines up to ElementDataFile, keys in lower case."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < _HEADER_LIMIT:
            line = file.readline(4096)
            key, mark, value = line.decode("latin-1").partition("=")
            if not mark:
                break
            fields[key.strip().lower()] = value.strip()
            if "elementdatafile" in fields:
                return fields | {"offset": str(file.tell())}
    raise FileProblem(
        f"{path} is no MetaImage file: it has no ElementDataFile line.",
        hint="Check what it is (file PATH) and give it the suffix of its format.",
    )


def _check_data(path: Path, fields: dict[str, str]) -> None:
    """Find a missing or short data file, for which ITK has only vague words.

    Raises:
        FileProblem: the data file that the header names is missing.
        EOFError: there are fewer bytes than the header says.
    """
    data, offset = path, int(fields["offset"])
    name = fields["elementdatafile"]
    if name.upper() != "LOCAL":
        if name.upper().startswith("LIST") or "%" in name:
            return
        data, offset = path.parent / name, 0
        if not data.is_file():
            raise FileProblem(
                f"{path} keeps its voxels in {name}, which does not lie beside it.",
                hint="Copy the .raw or .zraw file together with the .mhd.",
            )
    if fields.get("compresseddata", "").lower() == "true":
        needed = int(fields.get("compresseddatasize", "0"))
    else:
        sizes = [int(word) for word in fields.get("dimsize", "0").split()]
        needed = int(fields.get("elementnumberofchannels", "1")) * _ITEM_BYTES.get(
            fields.get("elementtype", ""), 0
        )
        for size in sizes:
            needed *= size
    there = data.stat().st_size - offset
    if there < needed:
        raise EOFError(f"it has {there} of {needed} bytes of voxels")


_ITEM_BYTES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4,
    "MET_FLOAT": 4, "MET_DOUBLE": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8,
}  # fmt: skip


def write_metaimage(
    path: Path,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,  # noqa: ARG001
) -> Writer:
    """A writer of .mha; compressed where it holds labels."""
    if paths.suffix_of(path, paths.METAIMAGE) == ".mhd":
        raise BadInput(f"{path}: two-file MetaImages are not written.", hint="Use the suffix .mha")
    stored = check_dtype(dtype, itk.DTYPES, format_name="MetaImage")
    return Writer(
        path,
        ".mha",
        geometry,
        stored,
        channels,
        lambda temporary: itk.GatherSink(
            temporary, geometry, stored, channels, compress=bool(labels)
        ),
    )
