"""The header of a DICOM file, up to its voxels: PS3.5, section 7 (data sets) and annex A (transfer syntaxes).

SimpleITK shows no sequences, and these hold the places of the frames of enhanced CT; hence this small parser. It reads
a few kilobytes of a file, so that a study of thousands of files is listed in seconds. It imports no NumPy.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ctseg.errors import FileProblem

IMPLICIT, EXPLICIT, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))
DEFLATED = "1.2.840.10008.1.2.1.99"
PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
"""Pixel Data, Float Pixel Data and Double Float Pixel Data."""
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])
_UNDEFINED = 0xFFFFFFFF
_KEPT = 1 << 16
"""Values longer than this are passed over: pictures, look-up tables, private blocks."""
_BLOCK = 1 << 15
_SEQUENCES = frozenset({
    0x52009229, 0x52009230, 0x00209113, 0x00209116, 0x00209111, 0x00289110, 0x00289145, 0x00189329,
})  # fmt: skip
"""Sequences that are read: those with the places of frames. An implicit file does not say which elements are some."""
_NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_IMPLICIT_NUMBERS = {0x00280002: "US", 0x00280010: "US", 0x00280011: "US", 0x00280100: "US",
                     0x00280101: "US", 0x00280102: "US", 0x00280103: "US", 0x00280006: "US"}  # fmt: skip


@dataclass(frozen=True)
class Element:
    """One value: its representation of two letters, its bytes, or the items of a sequence."""

    vr: str
    value: bytes
    items: tuple[Mapping[int, Element], ...] = ()


@dataclass(frozen=True)
class Header:
    """What a file says before its voxels.

    Attributes:
        path: the file.
        syntax: UID of the transfer syntax.
        elements: by tag, e.g. 0x00280010 for Rows; sequences that are not needed and long values are left out.
        order: `<` or `>`, for binary values and voxels.
        pixel_tag: which kind of voxels follow, 0 for none.
        pixel_start: first byte of the voxels, in the inflated stream where the file is deflated.
        pixel_bytes: their number, None for encapsulated ones.
        file_bytes: size of the file, inflated where it is deflated.
    """

    path: Path
    syntax: str
    elements: Mapping[int, Element] = field(repr=False)
    order: str
    pixel_tag: int
    pixel_start: int
    pixel_bytes: int | None
    file_bytes: int

    def text(self, tag: int) -> str:
        return text(self.elements, tag)

    def numbers(self, tag: int) -> list[float]:
        return numbers(self.elements, tag, self.order)

    def integer(self, tag: int, default: int = 0) -> int:
        found = self.numbers(tag)
        return int(found[0]) if found else default


def text(elements: Mapping[int, Element], tag: int) -> str:
    """A value as text, without its padding; empty where there is none."""
    element = elements.get(tag)
    if element is None:
        return ""
    charset = elements.get(0x00080005)
    name = "utf-8" if charset is not None and b"192" in charset.value else "latin-1"
    return element.value.decode(name, "replace").strip(" \0")


def numbers(elements: Mapping[int, Element], tag: int, order: str = "<") -> list[float]:
    """A value as numbers, written in binary or as decimal strings; empty where there are none."""
    element = elements.get(tag)
    if element is None or not element.value:
        return []
    code = _NUMBERS.get(element.vr)
    if code is not None:
        count = len(element.value) // struct.calcsize(code)
        return [float(v) for v in struct.unpack_from(f"{order}{count}{code}", element.value)]
    try:
        return [float(word) for word in text(elements, tag).split("\\")]
    except ValueError:
        return []


def read_dicom_header(path: Path) -> Header:
    """Read a file up to its voxels.

    Raises:
        FileProblem: no DICOM file.
        ValueError: a damaged header.
        EOFError: the file ends within the header, or before the last of its voxels.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        window = _Window(file, size)
        start = 132 if window.part(128, 4) == b"DICM" else 0
        if start == 0 and window.part(0, 4) not in (
            b"\x08\0\0\0",
            b"\x08\0\x05\0",
            b"\x08\0\x08\0",
        ):
            raise FileProblem(
                f"{path} is no DICOM file.",
                hint="Check what it is (file PATH) and give it the suffix of its format.",
            )
        meta: dict[int, Element] = {}
        at = start
        while start and window.size - at >= 8 and window.part(at, 2) == b"\x02\0":
            tag, element, at = _element(window, at, "<", explicit=True)
            meta[tag] = element
        syntax = text(meta, 0x00020010) or (EXPLICIT if start else IMPLICIT)
        if syntax == DEFLATED:
            file.seek(at)
            unpacked = zlib.decompressobj(-15).decompress(file.read())
            window, at = _Window(None, len(unpacked), unpacked), 0
        order = ">" if syntax == BIG_ENDIAN else "<"
        elements: dict[int, Element] = {}
        pixels = 0, at, 0
        while window.size - at >= 8:
            tag = _tag(window, at, order)
            if tag in PIXELS:
                _, length, first = _head(window, at, order, explicit=syntax != IMPLICIT)
                pixels = tag, first, length
                break
            if tag > PIXELS[0]:
                break
            tag, element, at = _element(window, at, order, explicit=syntax != IMPLICIT)
            elements[tag] = element
    tag, first, length = pixels
    if tag and length != _UNDEFINED and first + length > window.size:
        raise EOFError(f"it has {window.size - first} of {length} bytes of voxels")
    encapsulated = length == _UNDEFINED
    return Header(
        path, syntax, elements, order, tag, first, None if encapsulated else length, window.size
    )


class _Window:
    """The bytes of a file, fetched as far as they are asked for."""

    def __init__(self, file: IO[bytes] | None, size: int, content: bytes = b"") -> None:
        self._file = file
        self.size = size
        self._at = 0
        self._block = content

    def part(self, at: int, count: int) -> bytes:
        """Bytes from a place on; fewer only for the mark at the start of a short file."""
        first = at - self._at
        if first < 0 or first + count > len(self._block):
            if self._file is None:
                raise EOFError("it ends within the header")
            self._file.seek(at)
            self._at, first = at, 0
            self._block = self._file.read(max(count, _BLOCK))
        out = self._block[first : first + count]
        if len(out) < count and at >= 132:
            raise EOFError("it ends within the header")
        return out


def _tag(window: _Window, at: int, order: str) -> int:
    group, element = struct.unpack(f"{order}HH", window.part(at, 4))
    return int(group << 16 | element)


def _head(window: _Window, at: int, order: str, *, explicit: bool) -> tuple[str, int, int]:
    """Value representation, length, and the first byte of the value."""
    if not explicit:
        return "", struct.unpack(f"{order}I", window.part(at + 4, 4))[0], at + 8
    vr = window.part(at + 4, 2).decode("latin-1")
    if vr in _LONG:
        return vr, struct.unpack(f"{order}I", window.part(at + 8, 4))[0], at + 12
    if not vr.isalpha() or not vr.isupper():
        raise ValueError(f"the element ({_tag(window, at, order):08x}) has no value representation")
    return vr, struct.unpack(f"{order}H", window.part(at + 6, 2))[0], at + 8


def _element(window: _Window, at: int, order: str, *, explicit: bool) -> tuple[int, Element, int]:
    """Tag, value, and where the next element starts."""
    tag = _tag(window, at, order)
    vr, length, first = _head(window, at, order, explicit=explicit)
    if not explicit:
        vr = "SQ" if tag in _SEQUENCES else _IMPLICIT_NUMBERS.get(tag, "")
    if length == _UNDEFINED and vr in ("OB", "OW"):  # the picture of an icon, in compressed pieces
        return tag, Element(vr, b""), _past_pieces(window, first, order)
    if length == _UNDEFINED or (vr == "SQ" and tag in _SEQUENCES):
        # a sequence of unknown representation is written as in an implicit file (PS3.5, 6.2.2)
        items, end = _items(window, first, length, order, explicit=explicit and vr != "UN")
        return tag, Element("SQ", b"", items), end
    if first + length > window.size:
        raise EOFError(f"it ends within the element ({tag:08x})")
    value = window.part(first, length) if 0 < length <= _KEPT else b""
    return tag, Element(vr, value), first + length


def _past_pieces(window: _Window, at: int, order: str) -> int:
    while _tag(window, at, order) == _ITEM:
        at += 8 + int(struct.unpack(f"{order}I", window.part(at + 4, 4))[0])
    return at + 8


def _items(
    window: _Window, at: int, length: int, order: str, *, explicit: bool
) -> tuple[tuple[Mapping[int, Element], ...], int]:
    """The items of a sequence, and where the next element starts."""
    end = None if length == _UNDEFINED else at + length
    items: list[Mapping[int, Element]] = []
    while end is None or at < end:
        tag = _tag(window, at, order)
        (size,) = struct.unpack(f"{order}I", window.part(at + 4, 4))
        at += 8
        if tag == _SEQUENCE_END:
            break
        if tag != _ITEM:
            raise ValueError("a sequence is damaged")
        item_end = None if size == _UNDEFINED else at + size
        item: dict[int, Element] = {}
        while item_end is None or at < item_end:
            if _tag(window, at, order) == _ITEM_END:
                at += 8
                break
            inner, element, at = _element(window, at, order, explicit=explicit)
            item[inner] = element
        items.append(item)
    return tuple(items), at if end is None else end
