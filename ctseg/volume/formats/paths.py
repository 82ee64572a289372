"""Recognises formats by file name and, where suffixes are shared, by the first bytes."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii.gz", ".nii")
NIFTI_HEADERS = (".hdr.gz", ".hdr")
NIFTI_VOXELS = (".img.gz", ".img")
NRRD = (".nrrd", ".nhdr", ".seg.nrrd")
METAIMAGE = (".mha", ".mhd")
TIFF = (".tif", ".tiff")
HDF5 = (".h5", ".hdf5", ".hdf")
DICOM = (".dcm", ".dicom")


def suffix_of(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """The suffix of the list with which the name ends, ignoring case; None without one."""
    name = path.name.lower()
    return next((s for s in suffixes if name.endswith(s) and len(name) > len(s)), None)


def nifti_partner(path: Path) -> Path | None:
    """The other file of a NIfTI pair: `a.img` (or `a.img.gz`) of `a.hdr`, and vice versa; None without one."""
    suffix = suffix_of(path, NIFTI_HEADERS + NIFTI_VOXELS)
    if suffix is None:
        return None
    others = NIFTI_VOXELS if suffix in NIFTI_HEADERS else NIFTI_HEADERS
    stem = path.name[: -len(suffix)]
    names = [stem + suffix for suffix in (*reversed(others), *(s.upper() for s in others))]
    try:
        return next((path.with_name(n) for n in names if path.with_name(n).is_file()), None)
    except OSError:
        return None


def is_nifti(path: Path) -> bool:
    """Whether a path is a NIfTI file by its name, or one of a pair; other formats use `.hdr` and `.img`, too."""
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
