"""A zoo on disk: one folder for each entry, and an index with the checksum of every file.

zoo/<architecture>.<tag>/{*.safetensors, card.json, README.md}
zoo/index.json
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctseg.card import Card, parse_card
from ctseg.errors import CorruptWeights, CtsegError, FileProblem
from ctseg.files import disk_errors, write_text
from ctseg.temporary import clear_abandoned, held
from ctseg.zoo.folders import names_in
from ctseg.zoo.index import (
    FILE,
    INDEX,
    LARGEST_INDEX,
    About,
    FileRecord,
    IndexEntry,
    ZooIndex,
    parse_index,
)

CARD, README, LOCK = "card.json", "README.md", ".lock"
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


def file_record(path: Path) -> FileRecord:
    """Checksum and size of a file, as the index keeps them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileRecord(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def read_index(zoo: Path) -> ZooIndex:
    """The index of a zoo; empty where there is none.

    Raises:
        CorruptWeights: the index is damaged.
    """
    file = zoo / INDEX
    try:
        if file.exists() and (not file.is_file() or file.stat().st_size > LARGEST_INDEX):
            raise CorruptWeights(f"{file} is no index: it is no file, or far too large.")
        text = file.read_bytes()
    except FileNotFoundError:
        return ZooIndex()
    except OSError as error:
        raise CorruptWeights(f"The index {file} cannot be read: {error.strerror}.") from error
    return parse_index(text, where=str(file))


def write_index(zoo: Path, index: ZooIndex) -> None:
    """Replace the index. Call it with the zoo locked."""
    write_text(zoo / INDEX, index.to_json(), option="--zoo")


def index_entry(entry: ZooEntry) -> IndexEntry:
    """What the index says about an entry: its files and an excerpt of its card. Hidden files are skipped."""
    files = {f.name: file_record(f) for f in entry.folder.iterdir() if f.is_file() and _listed(f)}
    about = None
    with contextlib.suppress(CtsegError):  # `verify` says what is wrong with the card
        about = About.of(entry.card())
    return IndexEntry(files=files, about=about)


def _listed(file: Path) -> bool:
    return FILE.fullmatch(file.name) is not None


def write_index_entry(zoo: Path, name: str, folder: Path | None) -> None:
    """Record the files of one entry, or forget it where `folder` is None. Call it with the zoo locked."""
    index = read_index(zoo)
    entry = None if folder is None else index_entry(ZooEntry(name, folder))
    write_index(zoo, index.with_entry(name, entry))


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
