"""Which paths belong to which format: by name and, for DICOM, by the first bytes. Nothing heavy is imported."""

from __future__ import annotations

import itertools
from pathlib import Path

NIFTI = (".nii.gz", ".nii")
NIFTI_HEADERS = (".hdr.gz", ".hdr")
NIFTI_VOXELS = (".img.gz", ".img")
NRRD = (".nrrd", ".nhdr", ".seg.nrrd")
METAIMAGE = (".mha", ".mhd")
TIFF = (".tif", ".tiff")
HDF5 = (".h5", ".hdf5", ".hdf")
DICOM = (".dcm", ".dicom")
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
    """Whether a file carries the DICOM mark `DICM` behind its preamble of 128 bytes."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


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
