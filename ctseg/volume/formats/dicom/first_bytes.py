"""Recognises DICOM files by their first bytes, without heavy imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DICOM_HEAD = 4096
"""Number of bytes that contain the elements which identify a DICOM file."""
_LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN")
"""Explicit types whose length field has four bytes."""
_LONGEST = 1024


def is_dicom_file(path: Path) -> bool:
    """Whether a file has the DICOM mark, or starts like files that old programs wrote without a preamble."""
    try:
        # Empty, or a pipe or a file such as /proc/kmsg, which may block.
        if path.stat().st_size == 0:
            return False
        with path.open("rb") as file:
            return is_dicom_start(file.read(DICOM_HEAD))
    except OSError:
        return False


def is_dicom_start(head: bytes) -> bool:
    """Whether the first bytes of a file are DICOM: a preamble and the mark `DICM`, or elements from the start."""
    if head[128:132] == b"DICM":
        return True
    if head[:2] not in (b"\x02\0", b"\x08\0"):
        return False
    elements = list(first_elements(head))
    return len(elements) > 1 and elements[-1][0] > elements[0][0]


def first_elements(head: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and value of the elements at the start of a file, as far as the bytes reach.

    Only the groups 0002 (explicit) and 0008 are read, little endian, explicit or implicit; reading ends
    where tags do not ascend, or a value is longer than the bytes.
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
