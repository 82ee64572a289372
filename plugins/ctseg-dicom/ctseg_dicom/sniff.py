"""Recognises kinds of DICOM objects by their first bytes. Imports neither pydicom nor NumPy."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ctseg.volume.formats.dicom.first_bytes import DICOM_HEAD, first_elements, is_dicom_start

SEGMENTATION = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation Storage
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation Storage
    }
)
STRUCTURE_SET = frozenset({"1.2.840.10008.5.1.4.1.1.481.3"})  # RT Structure Set Storage
_CLASSES = (0x00080016, 0x00020002)
"""SOP Class UID, and its copy in the file meta information, which some files lack."""
_FEW = 20


def sop_class(path: Path) -> str | None:
    """The SOP class of a DICOM file; None for any other file."""
    try:
        with path.open("rb") as file:
            head = file.read(DICOM_HEAD)
    except OSError:
        return None
    if not is_dicom_start(head):
        return None
    elements = dict(first_elements(head))
    named = (elements.get(tag, b"").rstrip(b"\0 ").decode("ascii", "replace") for tag in _CLASSES)
    return next(filter(None, named), "")


def object_in(path: Path, classes: frozenset[str]) -> Path | None:
    """The file that a path means: itself, or the only DICOM file of a folder; None if it is of another class."""
    try:
        if not path.is_dir():
            return path if sop_class(path) in classes else None
        entries = list(islice(path.iterdir(), _FEW + 1))
        if len(entries) > _FEW:  # a folder of slices
            return None
        only_file = None
        for entry in entries:
            kind = None if entry.name.startswith(".") or entry.is_dir() else sop_class(entry)
            if kind and (only_file or kind not in classes):
                return None
            only_file = entry if kind else only_file
    except OSError:
        return None
    return only_file
