"""Recognises folders with one picture per slice, by names and a few bytes; without heavy imports."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from ctseg.volume.formats import paths

PICTURES = (*paths.TIFF, ".png")
_DESCRIPTION = 270
_FRACTION = re.compile(r"(?<!\d)(?<!\d\.)\d+\.(\d+)(?!\.?\d)")
"""Digits on both sides of a point, of which there is one."""


def slice_numbers(files: Sequence[Path]) -> list[tuple[Decimal, ...]]:
    """The numbers in the name of each slice, which sort slice 10 after slice 9, and 0.25 before 0.5.

    A point between digits separates two whole numbers if there are several in a row (`1.2.840`), or if what follows it
    counts on (`a1.9`, `a1.10`); otherwise it is a decimal point.

    Args:
        files: slices whose names differ only in their numbers.
    """
    columns = zip(*(_FRACTION.findall(file.stem) for file in files), strict=True)
    number = re.compile(r"\d+" if any(map(_counts_on, columns)) else rf"{_FRACTION.pattern}|\d+")
    return [tuple(Decimal(m[0]) for m in number.finditer(file.stem)) for file in files]


def _counts_on(fractions: Sequence[str]) -> bool:
    """Whether digits after a point are a counter: fractions of several lengths have no zero at their end."""
    return len(set(map(len, fractions))) > 1 and any(len(f) > 1 and f[-1] == "0" for f in fractions)


def slice_files(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers; empty if their names differ in more than numbers."""
    pictures: list[Path] = []
    kinds: set[str] = set()
    try:
        for entry in folder.iterdir():
            if entry.name.startswith(".") or paths.suffix_of(entry, PICTURES) is None:
                continue
            pictures.append(entry)
            kinds.add(re.sub(r"\d+", "\0", entry.stem))  # which no name contains
            if len(kinds) > 1:
                return []
    except OSError:
        return []
    numbers = dict(zip(pictures, slice_numbers(pictures), strict=True))
    return sorted(pictures, key=numbers.__getitem__)


def is_slices(folder: Path) -> bool:
    """Whether a folder holds two or more pictures whose names differ only in running numbers."""
    if not folder.is_dir():
        return False
    files = slice_files(folder)
    return len(set(slice_numbers(files))) > 1 and is_picture(files[0])


def is_picture(path: Path) -> bool:
    """Whether a file is a PNG, or a TIFF of a single page."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            if head.startswith(b"\x89PNG"):
                return True
            order = {b"II": "<", b"MM": ">"}.get(head[:2])
            if order is None:
                return False
            big = struct.unpack(f"{order}H", head[2:4])[0] == 43
            (first,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)
            file.seek(first)
            (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(8 if big else 2))
            size = 20 if big else 12
            entries = file.read(count * size)
            (following,) = struct.unpack(
                f"{order}{'Q' if big else 'I'}", file.read(8 if big else 4)
            )
            if following:
                return False
            for at in range(0, len(entries), size):
                tag, _, length = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", entries, at)
                if tag == _DESCRIPTION and length > size - 8:
                    (place,) = struct.unpack_from(
                        f"{order}{'Q' if big else 'I'}", entries, at + size - (8 if big else 4)
                    )
                    file.seek(place)
                    pages = re.search(rb"images=(\d+)", file.read(min(length, 4096)))
                    return (
                        pages is None or int(pages[1]) == 1
                    )  # ImageJ stores many pictures in one page
    except (OSError, struct.error):
        return False
    return True
