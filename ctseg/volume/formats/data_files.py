"""Data files of scans with a separate header: `.mhd`, `.nhdr`, and `.hdr` with `.img`."""

from __future__ import annotations

import re
from pathlib import Path

from ctseg.errors import FileProblem

OPTION = "data_folder"
MOST_FILES = 1 << 20


def data_file(header: Path, name: str, data_folder: str | Path | None = None) -> Path:
    """The file that a header names; it must lie beside or below the header, or in a folder that the user allows.

    Symbolic links are resolved first, so that a stranger's header cannot read other files of this machine as voxels.

    Args:
        header: the header file.
        name: file name in the header.
        data_folder: another folder that may contain it, at any depth.

    Raises:
        FileProblem: it lies elsewhere, or does not exist.
    """
    if not name.strip() or "\0" in name:
        raise FileProblem(f"{header} names no data file.", hint="Export the scan again.")
    try:
        file = (header.parent / name).resolve()
        allowed = [header.parent.resolve(), header.resolve().parent]
        if data_folder is not None:
            allowed.append(Path(data_folder).resolve())
    except (OSError, RuntimeError) as error:  # links in a circle, or a name that is too long
        raise FileProblem(
            f"{header} names a data file that cannot be accessed: {error}."
        ) from error
    if not any(file.is_relative_to(folder) for folder in allowed):
        raise FileProblem(
            f"{header} keeps its voxels in {file}, which lies neither beside nor below it.",
            hint=f"If that is intended, allow it: --option {OPTION}={file.parent}",
        )
    if not file.is_file():
        raise FileProblem(
            f"{header} keeps its voxels in {name}, which does not lie beside it.",
            hint=f"Copy {Path(name).name} together with {header.name}.",
        )
    return file


def numbered(pattern: str, first: int, last: int, step: int) -> list[str]:
    """File names with a running number, such as `slice%03d.raw` from first to last.

    Raises:
        ValueError: the pattern does not have exactly one number, or there are too many names.
    """
    places = re.findall(r"%0?\d{0,2}d", pattern)
    if len(places) != 1 or pattern.count("%") != 1:
        raise ValueError(f"'{pattern}' is no name with one number in it, such as slice%03d.raw")
    if not step or not 0 <= (last - first) // step < MOST_FILES:
        raise ValueError(f"{first} to {last} by {step} is no range of file numbers")
    numbers = range(first, last + (1 if step > 0 else -1), step)
    return [pattern % number for number in numbers]
