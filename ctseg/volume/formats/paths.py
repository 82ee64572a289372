"""Which paths belong to which format: by name and, for DICOM, by the first bytes. Nothing heavy is imported."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

NIFTI = (".nii.gz", ".nii")
NIFTI_HEADERS = (".hdr.gz", ".hdr")
NIFTI_VOXELS = (".img.gz", ".img")
NRRD = (".nrrd", ".nhdr", ".seg.nrrd")
METAIMAGE = (".mha", ".mhd")
TIFF = (".tif", ".tiff")
HDF5 = (".h5", ".hdf5", ".hdf")
DICOM = (".dcm", ".dicom")
DICOM_HEAD = 4096
"""Bytes within which the elements that tell what a DICOM file is stand."""
_LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN")
"""Explicit types whose length takes four bytes."""
_LONGEST = 1024
_FILES_TO_TRY = 50
_FOLDERS_TO_TRY = 200


def suffix_of(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """The suffix of the list that the name ends with, without regard to case."""
    name = path.name.lower()
    return next((s for s in suffixes if name.endswith(s) and len(name) > len(s)), None)


def nifti_partner(path: Path) -> Path | None:
    """The other file of a NIfTI pair: `a.img` (or `a.img.gz`) of `a.hdr`, and the other way round; None without one."""
    own = suffix_of(path, NIFTI_HEADERS + NIFTI_VOXELS)
    if own is None:
        return None
    others = NIFTI_VOXELS if own in NIFTI_HEADERS else NIFTI_HEADERS
    stem = path.name[: -len(own)]
    names = [stem + suffix for suffix in (*reversed(others), *(s.upper() for s in others))]
    try:
        return next((path.with_name(n) for n in names if path.with_name(n).is_file()), None)
    except OSError:
        return None


def is_nifti(path: Path) -> bool:
    """Whether a path is a NIfTI file by its name, or one of a pair; other formats have `.hdr` and `.img`, too."""
    if suffix_of(path, NIFTI) is not None:
        return True
    partner = nifti_partner(path)
    if partner is None:
        return False
    header = path if suffix_of(path, NIFTI_HEADERS) else partner
    if header.name.lower().endswith(".gz"):
        return True
    try:
        with header.open("rb") as file:
            first = file.read(4)
    except OSError:
        return False
    return first in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")


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


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file, a folder that holds some, or a study with its series in folders."""
    if not path.is_dir():
        return suffix_of(path, DICOM) is not None or is_dicom_file(path)
    return _first_dicom(path) is not None or _is_study(path)


def _first_dicom(folder: Path) -> Path | None:
    """A DICOM file that lies directly in a folder; a few files tell."""
    try:
        tried = 0
        for entry in folder.iterdir():
            if entry.name.startswith(".") or not entry.is_file():
                continue
            if is_dicom_file(entry):
                return entry
            tried += 1
            if tried == _FILES_TO_TRY:
                return None
    except OSError:
        return None
    return None


def _is_study(folder: Path) -> bool:
    """Whether two or more folders in this one, or in its folders, hold DICOM files, all of them of one study.

    A folder of patients is none: it is many scans.
    """
    studies: list[str] = []
    inside = _folders_in(folder)[:_FOLDERS_TO_TRY]
    deeper = (inner for one in inside for inner in _folders_in(one))
    for child in itertools.islice(itertools.chain(inside, deeper), _FOLDERS_TO_TRY):
        file = _first_dicom(child)
        if file is not None:
            studies.append(_study_of(file))
            if studies[-1] != studies[0]:
                return False
    return len(studies) > 1 and studies[0] != ""


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(e for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []


def _study_of(file: Path) -> str:
    from ctseg.volume.formats.dicom.header import read_dicom_header

    try:
        return read_dicom_header(file).text(0x0020000D)
    except (OSError, EOFError, ValueError):
        return ""
