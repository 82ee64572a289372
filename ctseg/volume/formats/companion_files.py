"""Scans whose voxels lie beside their header: `.mhd`, `.nhdr`, and `.hdr` with `.img`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctseg.errors import CtsegError, FileProblem
from ctseg.volume.formats import paths

OPTION = "data_folder"
MOST_FILES = 1 << 20


def data_file(header: Path, name: str, data_folder: str | Path | None = None) -> Path:
    """The file that a header names, which must lie beside or below it, or in a folder that the user allows.

    Symbolic links are followed first: a header from a stranger must not turn other files of this machine into voxels.

    Args:
        header: the file with the header.
        name: as the header has it.
        data_folder: another folder in or below which it may lie.

    Raises:
        FileProblem: it lies elsewhere, or is not there.
    """
    if not name.strip() or "\0" in name:
        raise FileProblem(f"{header} names no data file.", hint="Export the scan again.")
    try:
        file = (header.parent / name).resolve()
        allowed = [header.parent.resolve(), header.resolve().parent]
        if data_folder is not None:
            allowed.append(Path(data_folder).resolve())
    except (OSError, RuntimeError) as error:  # a circle of links, a name that is too long
        raise FileProblem(
            f"{header} names a data file that cannot be looked at: {error}."
        ) from error
    if not any(file.is_relative_to(folder) for folder in allowed):
        raise FileProblem(
            f"{header} keeps its voxels in {file}, which lies neither beside nor below it.",
            hint=f"If that is meant, allow it: --option {OPTION}={file.parent}",
        )
    if not file.is_file():
        raise FileProblem(
            f"{header} keeps its voxels in {name}, which does not lie beside it.",
            hint=f"Copy {Path(name).name} together with {header.name}.",
        )
    return file


def numbered(pattern: str, first: int, last: int, step: int) -> list[str]:
    """Names with a number in them, as `slice%03d.raw` from first to last.

    Raises:
        ValueError: no single number in the pattern, or too many names.
    """
    places = re.findall(r"%0?\d{0,2}d", pattern)
    if len(places) != 1 or pattern.count("%") != 1:
        raise ValueError(f"'{pattern}' is no name with one number in it, such as slice%03d.raw")
    if not step or not 0 <= (last - first) // step < MOST_FILES:
        raise ValueError(f"{first} to {last} by {step} is no range of file numbers")
    numbers = range(first, last + (1 if step > 0 else -1), step)
    return [pattern % number for number in numbers]


def files_of(path: Path) -> list[Path]:
    """The files that a scan's file stands for: itself first, then those of its voxels where they lie beside it."""
    return [path, *(file for file in _data_files(path) if file != path)]


def without_companions(files: Iterable[Path]) -> list[Path]:
    """Files without those that hold the voxels of another one among them."""
    files = list(files)
    there = set(files)
    held = {
        other for file in files for other in _data_files(file) if other != file and other in there
    }
    return [file for file in files if file not in held]


def _data_files(path: Path) -> Sequence[Path]:
    """The data files of a header under the names that it gives them; none where the file is no such header."""
    from ctseg.volume.formats.metaimage_header import read_metaimage_header
    from ctseg.volume.formats.nrrd_header import read_nrrd_header

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
    except (CtsegError, OSError, ValueError):  # told when it is read
        return []
