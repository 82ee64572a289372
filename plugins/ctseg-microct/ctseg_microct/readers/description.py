"""Descriptions of voxels without a header: `.vgi` of VGStudio, `.info` of PyHST, names like `a_9x8x7_uint8.raw`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ctseg.errors import FileProblem
from ctseg.specs import Zyx
from ctseg.volume.formats.calibration import Calibration, unknown_spacing
from ctseg.volume.formats.header_numbers import floats, integer, integers
from ctseg.volume.formats.units import MM, shown_in
from ctseg.volume.geometry import as_xyz

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
MOST_TEXT = 1 << 20
"""Most characters of a description."""
_NAME = re.compile(
    r"(?<!\d)(\d{1,6})x(\d{1,6})x(\d{1,6})(?!\d)[-_.]?((?:u?int(?:8|16|32)|float(?:32|64)))?(?![a-z0-9])"
)
_VGI_TYPES = {
    ("unsigned integer", 8): "uint8", ("unsigned integer", 16): "uint16", ("unsigned integer", 32): "uint32",
    ("signed integer", 8): "int8", ("signed integer", 16): "int16", ("signed integer", 32): "int32",
    ("float", 32): "float32", ("float", 64): "float64",
}  # fmt: skip


UNKNOWN = unknown_spacing("the file has no header")


@dataclass(frozen=True)
class Description:
    """What is known about voxels without a header.

    Attributes:
        shape_zyx: number of voxels.
        dtype: one of `DTYPES`.
        skip: bytes before the voxels.
        order: `little` or `big`.
        calibration: voxel size.
        where: what gave the description; empty for nothing.
    """

    shape_zyx: Zyx | None = None
    dtype: str | None = None
    skip: int = 0
    order: str = "little"
    calibration: Calibration = UNKNOWN
    where: str = ""


def describe(path: Path) -> Description:
    """The description beside a file or in its name; empty without one.

    Raises:
        FileProblem: a description lies beside the file and belongs to another one.
        ValueError: a description has impossible values.
    """
    for suffix, read in ((".vgi", _vgi), (".info", _pyhst)):
        for beside in (path.with_suffix(suffix), path.with_name(path.name + suffix)):
            if beside.is_file():
                return replace(read(beside, path), where=beside.name)
    match = _NAME.search(path.name.lower())
    if match is None:
        return Description()
    x, y, z = (integer(match[k], "number of voxels", 1) for k in (1, 2, 3))
    return Description((z, y, x), match[4], where="its name")


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_TEXT + 1)
    if len(data) > MOST_TEXT:
        raise ValueError(f"{path.name} is too long for a description of voxels")
    return data.decode("utf-8", "replace")


def _pyhst(info: Path, path: Path) -> Description:
    """`NUM_X = 2048`, `voxelSize = 5.0` in micrometres, `BYTEORDER = LOWBYTEFIRST`.

    The type is not stated; it follows from the size of the file: float32, uint16 or uint8.
    """
    fields = dict(_pairs(_text(info).splitlines()))
    z, y, x = (integer(fields.get(f"num_{axis}", ""), f"NUM_{axis.upper()}", 1) for axis in "zyx")
    by_size = {4: "float32", 2: "uint16", 1: "uint8"}
    each, rest = divmod(path.stat().st_size, x * y * z)
    big = fields.get("byteorder", "").upper().startswith("HIGH")
    found = Description(
        (z, y, x), by_size.get(each) if not rest else "float32", order="big" if big else "little"
    )
    if "voxelsize" not in fields:
        return found
    size = floats(fields["voxelsize"], "voxelSize", 1)[0]
    return replace(found, calibration=_calibration([size] * 3, "um"))


def _vgi(vgi: Path, path: Path) -> Description:
    """The file, its size, type and skipped bytes in VGStudio's description, and the resolution of its geometry.

    Raises:
        FileProblem: the description names another file.
    """
    sections: dict[str, dict[str, str]] = {}
    for name, lines in _sections(_text(vgi)):
        sections.setdefault(name, {}).update(_pairs(lines))
    file = sections.get("file1", {})
    named = file.get("name", "").strip('"')
    if named and named.replace("\\", "/").rpartition("/")[2] != path.name:
        raise FileProblem(
            f"{vgi} describes the voxels in '{named}', not {path.name}.",
            hint="Rename the file that is another, or give the shape and type as options without it.",
        )
    both = {**sections.get("representation", {}), **file}
    x, y, z = integers(both.get("size", ""), "size", 3, 1)
    kind, bits = (
        both.get("datatype", "").lower(),
        integer(both.get("bitsperelement", ""), "bitsperelement", 1),
    )
    if (kind, bits) not in _VGI_TYPES:
        raise ValueError(f"its datatype is '{kind[:40]}' of {bits} bits")
    found = Description(
        (z, y, x), _VGI_TYPES[kind, bits], integer(both.get("skipheader", "0"), "SkipHeader", 0)
    )
    geometry = sections.get("geometry", {})
    if "resolution" not in geometry:
        return found
    sizes = floats(geometry["resolution"], "resolution", 3)
    return replace(found, calibration=_calibration(sizes, geometry.get("unit", "mm")))


def _calibration(sizes: list[float], unit: str) -> Calibration:
    factor = MM.get(unit.strip().lower())
    if factor is None:
        raise ValueError(f"its unit '{unit[:20]}' is no known length")
    if not all(size > 0 for size in sizes):
        return unknown_spacing(f"it is given as {sizes}")
    return Calibration(as_xyz(size * factor for size in sizes), shown_in(factor))


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """The lines of each `[section]`; `{object}` lines separate objects, of which the first of a kind counts."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        match = re.fullmatch(r"\s*\[([^\]]*)\]\s*", line)
        if match is None:
            lines.append(line)
            continue
        yield name, lines
        name, lines = match[1].strip().lower(), []
    yield name, lines


def _pairs(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        key, separator, value = line.partition("=")
        if separator:
            yield key.strip().lower(), value.strip()
