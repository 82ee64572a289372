"""Recognises folders with one picture per slice, by names and a few bytes; without heavy imports."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from ctseg.volume.formats import paths

PICTURES = (*paths.TIFF, ".png")
_DESCRIPTION = 270


def natural_key(path: Path) -> tuple[int, ...]:
    """The numbers in a name, which sort slice 10 after slice 9."""
    return tuple(int(word) for word in re.findall(r"\d+", path.stem))


def slice_files(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers; empty if their names differ in more than numbers."""
    pictures: list[Path] = []
    kinds: set[str] = set()
    try:
        for entry in folder.iterdir():
            if entry.name.startswith(".") or paths.suffix_of(entry, PICTURES) is None:
                continue
            pictures.append(entry)
            kinds.add(re.sub(r"\d+", "#", entry.stem))
            if len(kinds) > 1:
                return []
    except OSError:
        return []
    return sorted(pictures, key=natural_key)


def is_slices(folder: Path) -> bool:
    """Whether a folder holds two or more pictures whose names differ only in running numbers."""
    if not folder.is_dir():
        return False
    files = slice_files(folder)
    return len({natural_key(file) for file in files}) > 1 and is_picture(files[0])


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
