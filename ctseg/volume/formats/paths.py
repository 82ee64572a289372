"""Which paths belong to which format: by name and, for DICOM, by the first bytes. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii.gz", ".nii")
NRRD = (".nrrd", ".nhdr")
METAIMAGE = (".mha", ".mhd")
TIFF = (".tif", ".tiff")
HDF5 = (".h5", ".hdf5", ".hdf")
DICOM = (".dcm", ".dicom")
_FILES_TO_TRY = 50


def suffix_of(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """The suffix of the list that the name ends with, without regard to case."""
    name = path.name.lower()
    return next((s for s in suffixes if name.endswith(s) and len(name) > len(s)), None)


def is_dicom_file(path: Path) -> bool:
    """Whether a file carries the DICOM mark `DICM` behind its preamble of 128 bytes."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file or a folder that holds some."""
    if not path.is_dir():
        return suffix_of(path, DICOM) is not None or is_dicom_file(path)
    try:
        tried = 0
        for entry in path.iterdir():
            if entry.name.startswith(".") or not entry.is_file():
                continue
            if is_dicom_file(entry):
                return True
            tried += 1
            if tried == _FILES_TO_TRY:
                return False
    except OSError:
        return False
    return False
