"""Writes the index of a zoo folder anew, so that a static web server, a shared folder or a bucket can offer it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ctseg.config.checking import validate
from ctseg.errors import BadInput, CorruptWeights, FileProblem, UnknownName
from ctseg.zoo.index import INDEX, Deprecation, ZooIndex
from ctseg.zoo.store import ZooEntry, entries_in, index_entry, locked, read_index, write_index

TRIES = 5
"""Attempts while others publish into the zoo."""


@dataclass(frozen=True)
class Served:
    """An index that was written.

    Attributes:
        sha256: of the file.
        gone: models that the earlier index named and the folder lacks.
    """

    index: ZooIndex
    sha256: str
    gone: tuple[str, ...]


def serve_index(
    zoo: Path,
    *,
    aliases: Mapping[str, str] | None = None,
    deprecate: Mapping[str, str] | None = None,
    reason: str = "",
) -> Served:
    """Write the index of every model in the folder; earlier aliases and deprecations are kept.

    Args:
        aliases: models by alias; an empty name removes the alias.
        deprecate: successors of models that should no longer be used; may be empty.
        reason: why.

    Raises:
        CorruptWeights: files that differ from what was published; the index stays as it is.
        UnknownName: an alias or a deprecation of a model that is not there.
    """
    for _ in range(TRIES):
        before = read_index(zoo)
        index = _index_of(zoo, before, aliases or {}, deprecate or {}, reason)
        with locked(zoo):
            if read_index(zoo) == before:
                write_index(zoo, index)
                sha256 = hashlib.sha256((zoo / INDEX).read_bytes()).hexdigest()
                return Served(index, sha256, tuple(sorted({*before.entries} - {*index.entries})))
    raise FileProblem(f"The index of {zoo} changes all the time.", hint="Try again later.")


def _index_of(
    zoo: Path,
    before: ZooIndex,
    aliases: Mapping[str, str],
    deprecate: Mapping[str, str],
    reason: str,
) -> ZooIndex:
    """The index of what the folder holds, with the earlier aliases and deprecations and the new ones."""
    found = entries_in(zoo)
    if not found:
        raise BadInput(
            f"{zoo} holds no model.", hint="Name a zoo: its folders are named ARCHITECTURE.TAG."
        )
    entries = {}
    for entry in found:
        _check_links(entry)
        made = index_entry(entry)
        known = before.entries.get(entry.name)
        if known is not None and known.files != made.files:
            raise CorruptWeights(
                f"{entry.name} in {zoo} differs from what was published.",
                hint=f"See what differs: ctseg zoo verify {entry.name} --zoo {zoo}",
            )
        if made.about is None:
            entry.card()  # raises
        entries[entry.name] = made.model_copy(
            update={"deprecated": known.deprecated if known is not None else None}
        )
    for name, successor in deprecate.items():
        for one in filter(None, (name, successor)):
            if one not in entries:
                raise UnknownName("model", one, entries)
        note = Deprecation(successor=successor, reason=reason)
        entries[name] = entries[name].model_copy(update={"deprecated": note})
    names = {a: name for a, name in before.aliases.items() if name in entries} | dict(aliases)
    names = {alias: name for alias, name in names.items() if name}
    for name in names.values():
        if name not in entries:
            raise UnknownName("model", name, entries)
    return validate(ZooIndex, {"entries": entries, "aliases": names}, where=f"the index of {zoo}")


def _check_links(entry: ZooEntry) -> None:
    for path in (entry.folder, *sorted(entry.folder.iterdir())):
        if path.is_symlink():
            raise BadInput(
                f"{path} is a link, which a zoo that others fetch from may not contain.",
                hint="Put a copy in its place.",
            )
