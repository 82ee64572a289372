"""Files named in other files: only those beside or below the naming file are followed, unless the user allows more."""

from __future__ import annotations

from pathlib import Path

from ctseg.errors import BadInput, FileProblem


def is_allowed(value: str) -> bool:
    """The value of the option `outside` as a boolean.

    Raises:
        BadInput: the value is neither yes nor no.
    """
    if value not in ("yes", "no"):
        raise BadInput(f"The option outside is 'yes' or 'no', not '{value}'.")
    return value == "yes"


def follow(owner: Path, name: str, *, allowed: bool, what: str) -> Path:
    """The file that another one names, with symbolic links resolved.

    Args:
        owner: the file that names it; relative names start in its folder.
        name: name in the owner.
        allowed: whether it may lie outside the owner's folder.
        what: its content, for messages, e.g. "voxels".

    Raises:
        FileProblem: it lies elsewhere, or is missing.
    """
    folder = owner.parent.resolve()
    if "\0" in name or not name:
        raise FileProblem(
            f"{owner} names a file {name!r} for its {what}, which is not a valid file name."
        )
    try:
        target = (folder / name).resolve()
        missing = not target.is_file()
    except (OSError, RuntimeError) as error:  # names that are too long, links in a circle
        raise FileProblem(f"{owner} names the file {name} for its {what}: {error}.") from error
    if not allowed and not target.is_relative_to(folder):
        raise FileProblem(
            f"{owner} takes its {what} from {target}, which lies outside its folder.",
            hint="If you trust the file, allow it with the option outside=yes",
        )
    if missing:
        raise FileProblem(
            f"{owner} takes its {what} from {target}, which is missing.",
            hint="Copy the missing file to that place; the scan is incomplete without it.",
        )
    return target
