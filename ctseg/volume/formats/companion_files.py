"""Scans whose voxels lie beside their header: `.mhd` and `.nhdr`."""

from __future__ import annotations

from pathlib import Path

from ctseg.errors import FileProblem
from ctseg.volume.formats import paths
from ctseg.volume.formats.metaimage_header import read_metaimage_header
from ctseg.volume.formats.nrrd_header import read_nrrd_header


def files_of(path: Path) -> list[Path]:
    """The files that a scan's file stands for: itself, and what its header names where that is another one.

    Headers that name many files, one a slice, stand for all in their folder.
    """
    name = _data_name(path)
    if name is None or name.upper() == "LOCAL":
        return [path]
    if name.upper().startswith("LIST") or "%" in name:
        return sorted(entry for entry in path.parent.iterdir() if entry.is_file())
    data = path.parent / name
    return [path, data] if data.is_file() else [path]


def _data_name(path: Path) -> str | None:
    """What a header says of its data file; None where the file is no such header, or a damaged one."""
    try:
        if paths.suffix_of(path, (".mhd",)):
            return read_metaimage_header(path)[1].get("elementdatafile")
        if paths.suffix_of(path, (".nhdr",)):
            fields = read_nrrd_header(path)[1]
            return fields.get("data file") or fields.get("datafile")
    except (FileProblem, OSError):  # told when it is read
        return None
    return None
