"""Recognises DICOM files, folders and studies, without heavy imports."""

from __future__ import annotations

import itertools
from pathlib import Path

from ctseg.volume.formats.dicom.first_bytes import is_dicom_file
from ctseg.volume.formats.paths import DICOM, suffix_of

_FILES_TO_TRY = 50
_FOLDERS_TO_TRY = 200


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file, a folder that holds some, or a study with its series in folders."""
    if not path.is_dir():
        return suffix_of(path, DICOM) is not None or is_dicom_file(path)
    return _first_dicom(path) is not None or _is_study(path)


def _first_dicom(folder: Path) -> Path | None:
    """A DICOM file directly in a folder; only a few files are looked at."""
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
    """Whether at least two folders in this one, up to two levels deep, hold DICOM files, all of them of one study.

    A folder of patients is no study: it holds many scans.
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
