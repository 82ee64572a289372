"""Names of volume files: from the id of a case, without the suffix of their format, and told apart."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ctseg import plugins


def file_name(case_id: str) -> str:
    """The name of a case's files, which keeps them in their folder; it is the id itself if that is a valid name.

    Ids come from files of a data set, where they may be `p1/first` or `../first`.
    """
    name = re.sub(r"[/\\\x00-\x1f]", "_", case_id)
    return re.sub(r"^\.|^$", "_", name)


def stem_of(path: Path) -> str:
    """The name of a volume file without the suffix of its format, e.g. `a_01` of `a_01.nii.gz`."""
    suffix = volume_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def names_apart(paths: Sequence[Path]) -> list[str]:
    """The name of each file, after as many of its folders as tell it from the other files."""
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 - links keep their names
    names = []
    for own in absolute:
        others = {path.parts for path in absolute if path != own}
        count = next(
            n for n in range(1, len(own.parts) + 1) if all(o[-n:] != own.parts[-n:] for o in others)
        )
        names.append(Path(*own.parts[-count:]).as_posix())
    return names


def volume_suffix(path: Path) -> str:
    """The suffix of a name if it belongs to a volume format, else empty."""
    fitting = [s for f in plugins.formats() for s in f.suffixes if path.name.lower().endswith(s)]
    return max(fitting, key=len, default="")


def matching(path: Path) -> list[Path]:
    """The files that match a quoted pattern such as `out/*.nii.gz`; none if it is not a pattern."""
    if path.exists() or not glob.has_magic(str(path)):
        return []
    return [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207
