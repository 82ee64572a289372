"""A zoo on disk: one folder for each entry, and an index with the checksum of every file.

zoo/<architecture>.<tag>/{*.safetensors, card.json, README.md}
zoo/index.json
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctseg.card import Card, parse_card
from ctseg.config.checking import parse_json
from ctseg.errors import CorruptWeights, FileProblem
from ctseg.files import disk_errors, write_text
from ctseg.temporary import clear_abandoned, held
from ctseg.zoo.folders import names_in

INDEX, CARD, README, LOCK = "index.json", "card.json", "README.md", ".lock"
LARGEST_CARD = 2**24
"""Bytes; that of any real model has some thousands."""
LOCK_SECONDS = 15.0
"""An update of the index takes milliseconds: an older lock was left by a killed process, where nothing else tells."""
NEW, REPLACED, REMOVED = ".publish-", ".replaced-", ".removed-"
"""Beginnings of the names of folders on their way into the zoo or out of it."""


@dataclass(frozen=True)
class ZooEntry:
    """One published model.

    Attributes:
        name: `<architecture>.<tag>`.
        folder: where its files are.
    """

    name: str
    folder: Path

    @property
    def zoo(self) -> Path:
        return self.folder.parent

    def card(self) -> Card:
        """The card beside the weights, checked.

        Raises:
            CorruptWeights, ConfigError: it is missing or wrong.
        """
        file = self.folder / CARD
        try:
            if file.exists() and (not file.is_file() or file.stat().st_size > LARGEST_CARD):
                raise CorruptWeights(f"{file} is no card: it is no file, or far too large.")
            return parse_card(file.read_text(encoding="utf-8"), where=str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptWeights(f"The card {file} cannot be read: {error}.") from error

    def weights(self) -> tuple[Path, ...]:
        """The weight files, in the order of the card's members."""
        return tuple(self.folder / member.file for member in self.card().members)

    def size(self) -> int:
        """Bytes of all its files."""
        return sum(f.stat().st_size for f in self.folder.iterdir() if f.is_file())


def entries_in(zoo: Path) -> list[ZooEntry]:
    """The entries of one zoo, by name; none where the folder does not exist.

    What a killed process left half done is put right first, where the zoo can be written.
    """
    clear_abandoned([zoo / LOCK], older_s=LOCK_SECONDS)
    if zoo.is_dir() and (any(zoo.glob(f"{REPLACED}*")) or any(zoo.glob(f"{REMOVED}*"))):
        with contextlib.suppress(FileProblem, CorruptWeights), locked(zoo):
            pass
    return [ZooEntry(name, zoo / name) for name in names_in(zoo)]


def delete_folder(folder: Path) -> None:
    """Remove an entry's folder; of a link to one only the link."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def file_record(path: Path) -> dict[str, Any]:
    """Checksum and size of a file, as the index keeps them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def read_index(zoo: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Name -> file -> checksum and size; empty where there is no index.

    Raises:
        CorruptWeights: the index is damaged.
    """
    file = zoo / INDEX
    try:
        data = parse_json(file.read_text(encoding="utf-8"))
        entries = {
            name: {key: dict(record) for key, record in entry["files"].items()}
            for name, entry in data["entries"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptWeights(
            f"The index {file} is damaged: {error}.",
            hint="Restore it from version control, or remove it and publish the entries anew.",
        ) from error
    return entries


def write_index_entry(zoo: Path, name: str, folder: Path | None) -> None:
    """Record the files of one entry, or forget it where `folder` is None. Call it with the zoo locked."""
    entries = read_index(zoo)
    entries.pop(name, None)
    if folder is not None:
        entries[name] = {
            file.name: file_record(file) for file in sorted(folder.iterdir()) if file.is_file()
        }
    data = {"version": 1, "entries": {key: {"files": entries[key]} for key in sorted(entries)}}
    write_text(zoo / INDEX, json.dumps(data, indent=2) + "\n")


def put_entry(new: Path, folder: Path) -> None:
    """Give a finished folder its place in the zoo and in the index. Call it with the zoo locked.

    The earlier entry, or an empty folder where there is none, keeps the name `.replaced-NAME` until the index is
    written, so that `_recover` puts right what a kill leaves; on failure the zoo is as it was.
    """
    zoo = folder.parent
    old = zoo / f"{REPLACED}{folder.name}"
    had_one = os.path.lexists(folder)
    if had_one:
        folder.rename(old)
    else:
        old.mkdir()
    try:
        new.rename(folder)
        write_index_entry(zoo, folder.name, folder)
    except BaseException:
        if os.path.lexists(folder):
            folder.rename(new)
        if had_one:
            old.rename(folder)
        else:
            old.rmdir()
        raise
    with contextlib.suppress(OSError):
        delete_folder(old)


def _recover(zoo: Path) -> None:
    """Bring to an end what killed processes left half done. Call it with the zoo locked."""
    for old in zoo.glob(f"{REPLACED}*"):
        folder = zoo / old.name.removeprefix(REPLACED)
        if os.path.lexists(folder):  # what gets the name is whole
            write_index_entry(zoo, folder.name, folder)
        elif old.is_symlink() or any(old.iterdir()):
            old.rename(folder)
        delete_folder(old)
    for gone in zoo.glob(f"{REMOVED}*"):
        name = gone.name.removeprefix(REMOVED)
        if not os.path.lexists(zoo / name):
            write_index_entry(zoo, name, None)
        delete_folder(gone)
    clear_abandoned(zoo.glob(f"{NEW}*"))


@contextlib.contextmanager
def locked(zoo: Path) -> Iterator[None]:
    """Keep other processes from changing the zoo meanwhile; what killed ones left half done is put right first.

    Raises:
        FileProblem: the zoo cannot be written, or another process keeps it.
    """
    lock = zoo / LOCK
    start = time.monotonic()
    with disk_errors(lock, option="--zoo"):
        zoo.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            clear_abandoned([lock], older_s=LOCK_SECONDS)
        except OSError as error:
            raise FileProblem(
                f"The zoo {zoo} cannot be written: {error.strerror}.",
                hint="Choose another one with --zoo, or change the permissions.",
            ) from error
        if time.monotonic() - start > 2 * LOCK_SECONDS:
            raise FileProblem(
                f"Another process keeps the zoo {zoo} locked.", hint=f"If none does: remove {lock}"
            )
        time.sleep(0.05)
    with held(lock):
        try:
            with disk_errors(zoo, option="--zoo"):
                _recover(zoo)
            yield
        finally:
            lock.unlink(missing_ok=True)
