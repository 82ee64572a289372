"""What kind of DICOM object a path holds, from its first bytes. Imports neither pydicom nor NumPy."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

SEGMENTATION = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation Storage
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation Storage
    }
)
STRUCTURE_SET = frozenset({"1.2.840.10008.5.1.4.1.1.481.3"})  # RT Structure Set Storage
_HEAD = 1024
"""Bytes; the SOP class is the second element of the file meta information, behind preamble and mark."""
_TAG = b"\x02\x00\x02\x00UI"
"""(0002,0002) Media Storage SOP Class UID; file meta information is explicit little endian in every DICOM file."""
_FEW = 20


def sop_class(path: Path) -> str | None:
    """The SOP class of a DICOM file, None for any other file."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    at = head.find(_TAG, 132)
    if head[128:132] != b"DICM" or at < 0:
        return None
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


def object_in(path: Path, classes: frozenset[str]) -> Path | None:
    """The file that a path means: itself, or the only DICOM file of a folder; None where it is of no such class."""
    try:
        if not path.is_dir():
            return path if sop_class(path) in classes else None
        entries = list(islice(path.iterdir(), _FEW + 1))
        if len(entries) > _FEW:  # not worth a look: these are slices
            return None
        found = None
        for entry in entries:
            kind = None if entry.name.startswith(".") or entry.is_dir() else sop_class(entry)
            if kind and (found or kind not in classes):
                return None
            found = entry if kind else found
    except OSError:
        return None
    return found
