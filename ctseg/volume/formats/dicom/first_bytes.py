"""The first bytes of DICOM files, from which they are known; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DICOM_HEAD = 4096
"""Bytes within which the elements that tell what a DICOM file is stand."""
_LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN")
"""Explicit types whose length takes four bytes."""
_LONGEST = 1024


def is_dicom_file(path: Path) -> bool:
    """Whether a file carries the DICOM mark, or starts as those do that old programs wrote without preamble."""
    try:
        with path.open("rb") as file:
            return is_dicom_start(file.read(DICOM_HEAD))
    except OSError:
        return False


def is_dicom_start(head: bytes) -> bool:
    """Whether the first bytes of a file are those of DICOM: the mark `DICM` behind a preamble, or elements at once."""
    if head[128:132] == b"DICM":
        return True
    if head[:2] not in (b"\x02\0", b"\x08\0"):
        return False
    found = list(first_elements(head))
    return len(found) > 1 and found[-1][0] > found[0][0]


def first_elements(head: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and value of the elements at the start of a file, as far as the given bytes go.

    The groups 0002 (in explicit form) and 0008 alone are looked at, little endian, explicit or implicit; it ends
    where the tags do not ascend, or a value is too long for them.
    """
    at = 132 if head[128:132] == b"DICM" else 0
    last = 0
    while at + 8 <= len(head):
        tag = int.from_bytes(head[at : at + 2], "little") << 16
        tag |= int.from_bytes(head[at + 2 : at + 4], "little")
        kind = head[at + 4 : at + 6]
        explicit = kind.isalpha() and kind.isupper()
        if (tag <= last and last) or tag >> 16 not in (0x0002, 0x0008):
            return
        if explicit and kind in _LONG:
            length, start = int.from_bytes(head[at + 8 : at + 12], "little"), at + 12
        elif explicit:
            length, start = int.from_bytes(head[at + 6 : at + 8], "little"), at + 8
        else:
            length, start = int.from_bytes(head[at + 4 : at + 8], "little"), at + 8
        if length % 2 or length > _LONGEST or start + length > len(head):
            return
        yield tag, head[start : start + length]
        at, last = start + length, tag
