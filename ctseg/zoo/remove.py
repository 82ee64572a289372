"""Taking an entry out of the user's zoo."""

from __future__ import annotations

from pathlib import Path

from ctseg.errors import BadInput
from ctseg.files import disk_errors
from ctseg.zoo.folders import user_zoo
from ctseg.zoo.resolve import find_entry
from ctseg.zoo.store import (
    REMOVED,
    ZooEntry,
    delete_folder,
    entries_in,
    locked,
    write_index_entry,
)


def removable(name: str, zoo: Path | str | None = None) -> ZooEntry:
    """The entry of that full name in the user's zoo (or the given one).

    Raises:
        UnknownName: no zoo has it.
        BadInput: only a zoo that a package ships has it.
    """
    home = user_zoo(zoo)
    for entry in entries_in(home):
        if entry.name == name:
            return entry
    elsewhere = find_entry(name, zoo)
    if elsewhere.name != name:
        raise BadInput(
            f"'{name}' is not a full name.", hint=f"Did you mean: ctseg zoo remove {elsewhere.name}"
        )
    raise BadInput(
        f"'{name}' is not in your zoo {home}: it comes with {elsewhere.zoo}.",
        hint=f"To remove it from there: ctseg zoo remove {name} --zoo {elsewhere.zoo}",
    )


def remove(name: str, zoo: Path | str | None = None) -> Path:
    """Remove an entry and its record; returns the folder that is gone. Of a link to a folder only the link goes.

    Raises:
        UnknownName, BadInput: as `removable`.
        FileProblem: the zoo cannot be written.
    """
    entry = removable(name, zoo)
    gone = entry.folder.with_name(f"{REMOVED}{entry.name}")
    with locked(entry.zoo), disk_errors(entry.folder, option="--zoo"):
        entry.folder.rename(gone)
        try:
            write_index_entry(entry.zoo, entry.name, None)
        except BaseException:
            gone.rename(entry.folder)
            raise
        delete_folder(gone)
    return entry.folder
