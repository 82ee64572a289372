"""Imports a foreign model that is named in place of one of ours, once, into a zoo in the cache."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import ctseg
from ctseg import plugins
from ctseg.data.store import cache_folder
from ctseg.errors import NameClash
from ctseg.importer_specs import ImporterSpec
from ctseg.zoo.importers.archive import Files
from ctseg.zoo.importers.entry import EntryOptions, read_model, write_entry
from ctseg.zoo.store import ZooEntry, entries_in

FOLDER = "imported"
UNSTATED = "not stated by the source"


def importer_of(path: Path) -> ImporterSpec | None:
    """The first importer that recognises a path."""
    return next((spec for spec in plugins.importers() if spec.recognise(path)), None)


def imported(path: Path, on_note: Callable[[str], None] | None = None) -> ZooEntry | None:
    """The entry of a foreign model, imported now or before; None where no importer recognises the path.

    Args:
        on_note: told where the entry lies, and what the user should know about it.

    Raises:
        BadInput: a model that is not understood.
    """
    spec = importer_of(path)
    if spec is None:
        return None
    tell = on_note or _silent
    zoo, mark = cache_folder() / FOLDER, _fingerprint(path, spec)
    known = [entry for entry in entries_in(zoo) if entry.name.endswith(f"_{mark}")]
    if known:
        tell(f"{path} was imported before: {known[0].folder}")
        return known[0]
    model = read_model(spec, [path], {})
    options = EntryOptions(
        tag=f"{model.tag}_{mark}", zoo=zoo, licence=model.card.licence or UNSTATED
    )
    entry = ZooEntry(options.name_of(model), zoo / options.name_of(model))
    try:
        write_entry(model, options)
    except NameClash:  # another process was quicker
        if not entry.folder.exists():  # one was killed after the first stage of a cascade
            write_entry(model, dataclasses.replace(options, overwrite=True))
    tell(f"{path} is imported once, as {entry.name}: {entry.folder}")
    tell(f"To keep it in your zoo: ctseg zoo import {spec.name} {path}")
    for note in model.notes:
        tell(note)
    return entry


REVISION = 1
"""Rises when an importer reads the same files in another way."""


def _fingerprint(path: Path, spec: ImporterSpec) -> str:
    """Changes with the importer, the version of ctseg, and names, sizes and times of the files that it reads."""
    digest = hashlib.sha256(f"{spec.name} {ctseg.__version__} {REVISION} {path.resolve()}".encode())
    for place in (path, *spec.beside(path)):
        names = [""] if place.is_file() else Files(place).names
        for name in names:
            about = (place / name if name else place).stat()
            digest.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:10]


def _silent(note: str) -> None:
    pass
