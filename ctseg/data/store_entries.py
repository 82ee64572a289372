"""What lies in the prepared store, and how it goes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctseg.config.checking import parse_json
from ctseg.data.store import cache_folder
from ctseg.errors import UnknownName
from ctseg.files import disk_errors


@dataclass(frozen=True)
class StoreEntry:
    """The cases prepared by one list of steps for one task.

    Attributes:
        key: its name in the store.
        folder: where it lies.
        cases: finished ones.
        bytes: on disk.
        used: when it was last asked for, seconds since 1970.
        steps: kinds of its steps in their order.
        labels: names of the task's labels.
    """

    key: str
    folder: Path
    cases: int
    bytes: int
    used: float
    steps: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def entries(folder: Path | None = None) -> tuple[StoreEntry, ...]:
    """All entries of the store, the one used last first."""
    root = folder or cache_folder() / "prepared"
    found = [_entry(path) for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return tuple(sorted(found, key=lambda entry: -entry.used))


def _entry(folder: Path) -> StoreEntry:
    steps: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    note = folder / "made_of.json"
    try:
        made_of = parse_json(note.read_text(encoding="utf-8"))
        steps = tuple(step["kind"] for step in made_of["preprocess"]["steps"])
        labels = tuple(label["name"] for label in made_of["task"]["labels"])
        used = note.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):  # made by an older version, or by hand
        used = folder.stat().st_mtime
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    cases = sum(1 for _ in folder.glob("[!.]*/case.json"))
    return StoreEntry(folder.name, folder, cases, size, used, steps, labels)


def clear(keys: Sequence[str] = (), folder: Path | None = None) -> tuple[StoreEntry, ...]:
    """Remove entries, all of them by default; the next run makes again what it needs.

    Args:
        keys: names, or their beginnings.

    Raises:
        UnknownName: no entry of that name.
    """
    there = entries(folder)
    chosen = []
    for key in keys:
        matches = [entry for entry in there if entry.key.startswith(key)]
        if not matches:
            raise UnknownName(
                "prepared entry", key, [e.key for e in there], listing="ctseg data prepare --list"
            )
        chosen += matches
    removed = tuple(chosen) if keys else there
    for entry in removed:
        with disk_errors(entry.folder):
            shutil.rmtree(entry.folder)
    return removed
