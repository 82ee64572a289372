"""The structure of a TIFF file, checked before tifffile reads it: its chain of pages, and the position of their voxels.

tifffile trusts the file: a file cut between two pages becomes a shorter stack, a chain of pages in a circle
never ends, and a few bytes may declare a page of any size.
"""

from __future__ import annotations

import operator
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ctseg.errors import FileProblem

_FORMS = {
    1: ("B", 1), 2: ("B", 1), 3: ("H", 2), 4: ("I", 4), 6: ("b", 1), 7: ("B", 1), 8: ("h", 2), 9: ("i", 4),
    13: ("I", 4), 16: ("Q", 8), 17: ("q", 8), 18: ("Q", 8),
}  # fmt: skip
"""Formats of whole numbers by the type of a tag (TIFF 6.0, section 2; BigTIFF)."""
_SIZES = {kind: wide for kind, (_, wide) in _FORMS.items()} | {5: 8, 10: 8, 11: 4, 12: 8}
"""Size in bytes by the type of a tag, including fractions and floats."""
_HEADS = {order: struct.Struct(f"{order}HHI") for order in "<>"}
_BIG_HEADS = {order: struct.Struct(f"{order}HHQ") for order in "<>"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOUR = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_WANTED = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLOUR, _STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANES,
    _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES,
}  # fmt: skip
_GROWTH = {1: 1, 32773: 64, 5: 4096, 8: 1032, 32946: 1032, 50013: 1032, 7: 1024}
"""Largest compression ratio by method: none, PackBits, LZW, Deflate (three codes), JPEG."""
_GROWTH_OF_OTHERS = 1 << 16
_GREY = (0, 1)
_MOST_TAGS = 4096

Numbers = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class _Form:
    """Byte order and field widths, which differ between TIFF and BigTIFF."""

    order: str
    big: bool

    @property
    def offset(self) -> str:
        return f"{self.order}{'Q' if self.big else 'I'}"

    @property
    def count(self) -> str:
        return f"{self.order}{'Q' if self.big else 'H'}"

    @property
    def entry(self) -> int:
        return 20 if self.big else 12

    @property
    def head(self) -> struct.Struct:
        return _BIG_HEADS[self.order] if self.big else _HEADS[self.order]

    @property
    def inline(self) -> int:
        return 8 if self.big else 4


def check_structure(path: Path) -> int:
    """Check all pages of a file.

    Returns:
        The number of pages.

    Raises:
        EOFError: pages or voxels lie beyond the end of the file, which is then truncated.
        ValueError: a page that no writer produces.
        FileProblem: not a TIFF file, or a chain of pages in a circle.
    """
    with path.open("rb") as file:
        form, at = _start(file, path)
        walk = _Walk(file, form, path.stat().st_size)
        offsets: set[int] = set()
        while at:
            if at in offsets:
                raise FileProblem(
                    f"{path} is damaged: page {len(offsets)} is followed by an earlier one.",
                    hint="Copy or download the file again.",
                )
            offsets.add(at)
            at = walk.check_page(at, f"page {len(offsets)}")
    if not offsets:
        raise EOFError("it has no pages")
    return len(offsets)


def _start(file: BinaryIO, path: Path) -> tuple[_Form, int]:
    """Byte order and widths of a file, and the offset of its first page."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 8 else 0
    if order is None or version not in (42, 43):
        raise FileProblem(
            f"{path} is not a TIFF file: it starts with {head[:4]!r}.",
            hint="Check what it is (file PATH) and give it the suffix of its format.",
        )
    form = _Form(order, version == 43)
    if len(head) < (16 if form.big else 8):
        raise EOFError(f"it has {len(head)} bytes")
    (first,) = struct.unpack_from(form.offset, head, 8 if form.big else 4)
    return form, int(first)


@dataclass(frozen=True)
class _Walk:
    """An open file of `size` bytes whose pages are checked."""

    file: BinaryIO
    form: _Form
    size: int

    def check_page(self, at: int, name: str) -> int:
        """Check one page and return the offset of the next one, 0 after the last."""
        form = self.form
        wide, width = struct.calcsize(form.count), struct.calcsize(form.offset)
        (count,) = struct.unpack(form.count, self._bytes(at, wide, name))
        if not 0 < count <= _MOST_TAGS:
            raise ValueError(f"{name} has {count} tags")
        block = self._bytes(at + wide, count * form.entry + width, name)
        numbers: Numbers = {}
        for start in range(0, count * form.entry, form.entry):
            tag, kind, length = form.head.unpack_from(block, start)
            if tag in _WANTED:
                numbers[tag] = self._values(block[start : start + form.entry], name)
            elif (nbytes := length * _SIZES.get(kind, 0)) > form.inline:
                (place,) = struct.unpack_from(form.offset, block, start + form.entry - form.inline)
                if place + nbytes > self.size:
                    raise EOFError(f"the description of {name} should lie at byte {place}")
        _check_voxels(numbers, self.size, name)
        (following,) = struct.unpack_from(form.offset, block, count * form.entry)
        return int(following)

    def _bytes(self, at: int, length: int, name: str) -> bytes:
        if at + length > self.size:
            raise EOFError(f"{name} should lie at byte {at} of {self.size}")
        self.file.seek(at)
        data = self.file.read(length)
        if len(data) < length:
            raise EOFError(f"{name} should lie at byte {at}, where the file ends")
        return data

    def _values(self, entry: bytes, name: str) -> tuple[int, ...]:
        """The whole numbers of a tag."""
        form = self.form
        (kind,) = struct.unpack_from(f"{form.order}H", entry, 2)
        (length,) = struct.unpack_from(form.offset, entry, 4)
        if kind not in _FORMS:
            raise ValueError(f"{name} has a tag of numbers whose type is {kind}")
        letter, wide = _FORMS[kind]
        data = entry[-form.inline :][: length * wide]
        if length * wide > form.inline:
            (at,) = struct.unpack_from(form.offset, entry, len(entry) - form.inline)
            data = self._bytes(at, length * wide, f"the list of voxels of {name}")
        return struct.unpack(f"{form.order}{length}{letter}", data)


def _one(numbers: Numbers, tag: int, default: int) -> int:
    values = numbers.get(tag)
    return values[0] if values else default


def _check_voxels(numbers: Numbers, size: int, name: str) -> None:
    """Detect voxels beyond the end of the file, and sizes that the bytes of a page cannot hold."""
    tiled = _TILES in numbers
    offsets = numbers.get(_TILES if tiled else _STRIPS, ())
    counts = numbers.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())
    if not offsets:
        raise ValueError(f"{name} does not say where its voxels lie")
    parts, needed = _extent(numbers, name)
    compression = _one(numbers, _COMPRESSION, 1)
    if compression == 1 and parts == 1:  # old writers omit the size, or write a wrong one
        counts = (needed,)
    if min(len(offsets), len(counts)) < parts:
        raise EOFError(f"{name} has {min(len(offsets), len(counts))} of {parts} parts")
    offsets, counts = offsets[:parts], counts[:parts]
    if min(offsets) < 1 or min(counts) < 1:
        missing = sum(a < 1 or b < 1 for a, b in zip(offsets, counts, strict=True))
        raise EOFError(f"{missing} of {parts} parts of {name} are missing")
    end = max(map(operator.add, offsets, counts))
    if end > size:
        raise EOFError(f"{name} ends at byte {end} of {size}")
    most = sum(counts) * _GROWTH.get(compression, _GROWTH_OF_OTHERS)
    if needed > most and _one(numbers, _COLOUR, 1) in _GREY:
        raise EOFError(f"{name} is too small for {needed} bytes of voxels")


def _extent(numbers: Numbers, name: str) -> tuple[int, int]:
    """The number of strips or tiles of a page, and its unpacked size in bytes."""
    width, height = _one(numbers, _WIDTH, 0), _one(numbers, _HEIGHT, 0)
    if width < 1 or height < 1:
        raise ValueError(f"{name} has {width} x {height} voxels")
    samples, bits = _one(numbers, _SAMPLES, 1), _one(numbers, _BITS, 1)
    apart = samples if _one(numbers, _PLANES, 1) == 2 else 1
    beside = samples // apart
    if _TILES in numbers:
        across, down = _one(numbers, _TILE_WIDTH, 0), _one(numbers, _TILE_HEIGHT, 0)
        if across < 1 or down < 1:
            raise ValueError(f"{name} has tiles of {across} x {down} voxels")
        parts = -(-width // across) * -(-height // down) * apart
        return parts, parts * -(-across * beside * bits // 8) * down
    rows = min(_one(numbers, _ROWS, height), height)
    if rows < 1:
        raise ValueError(f"{name} has strips of {rows} rows")
    return -(-height // rows) * apart, -(-width * beside * bits // 8) * height * apart
