"""Files that form one scan: a header and the files of its voxels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ctseg.errors import CtsegError
from ctseg.volume.formats import paths
from ctseg.volume.formats.metaimage.header import read_metaimage_header
from ctseg.volume.formats.nrrd.header import read_nrrd_header


def files_of(path: Path) -> list[Path]:
    """The files of a scan: the given one first, then its data files if they lie beside it."""
    return [path, *(file for file in _data_files(path) if file != path)]


def without_companions(files: Iterable[Path]) -> list[Path]:
    """The files, without data files that belong to another file among them."""
    files = list(files)
    present = set(files)
    companions = {
        other for file in files for other in _data_files(file) if other != file and other in present
    }
    return [file for file in files if file not in companions]


def _data_files(path: Path) -> Sequence[Path]:
    """The data files that a header names; none if the file is not such a header."""
    try:
        if paths.suffix_of(path, paths.NIFTI_HEADERS):
            data = paths.nifti_partner(path)
            return [] if data is None else [data]
        if paths.suffix_of(path, (".mhd",)):
            names = read_metaimage_header(path).files
        elif paths.suffix_of(path, (".nhdr",)):
            names = read_nrrd_header(path).files
        else:
            return []
        return [path.parent / name for name in names if (path.parent / name).is_file()]
    except (CtsegError, OSError, ValueError):  # reported when the file is read
        return []
