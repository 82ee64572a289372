"""From a zoo elsewhere into the user's zoo: card first, then the weights; whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ctseg.card import Card
from ctseg.errors import BadInput, CorruptWeights
from ctseg.files import disk_errors
from ctseg.temporary import clear_abandoned, held
from ctseg.zoo.folders import user_zoo
from ctseg.zoo.index import IndexEntry, ZooIndex
from ctseg.zoo.new_entry import check_free, put_in_place
from ctseg.zoo.remote.catalogue import Offer, find_offer
from ctseg.zoo.remote.download import check_room, download
from ctseg.zoo.resolve import all_entries, resolve_entry
from ctseg.zoo.sources import SHA256, Source, chosen
from ctseg.zoo.store import CARD, LARGEST_CARD, ZooEntry, locked, read_index, write_index

PARTIAL = ".fetch-"
"""Beginning of the names of folders that hold what was received so far."""
KEEP_S = 30 * 24 * 3600.0
"""Age at which an interrupted download is removed."""
MOST_FILES = 256
KINDS = (".safetensors", ".json", ".md", ".txt")
"""Files of data; archives and anything else are refused."""
MAX_BYTES = 20 * 10**9
DEEPEST = 8
"""Models that need one another, at most."""


def _silent(text: str) -> None:
    pass


def _unseen(done: float, total: float) -> None:
    pass


@dataclass(frozen=True)
class FetchOptions:
    """How a model is fetched.

    Attributes:
        sources: addresses or folders, asked in this order; those of the user's `sources.toml` if empty.
        pin: SHA-256 of the index or of the entry, which must be met.
        zoo: where the model goes; the user's own zoo if None.
        max_bytes: a larger model is refused.
        overwrite: replace another model of that name.
        on_note: told what the user should know.
        on_bytes: told the bytes that are there, and those of the whole model.
    """

    sources: tuple[str, ...] = ()
    pin: str = ""
    zoo: Path | str | None = None
    max_bytes: int = MAX_BYTES
    overwrite: bool = False
    on_note: Callable[[str], None] = _silent
    on_bytes: Callable[[float, float], None] = _unseen


def fetch(name: str, options: FetchOptions | None = None) -> ZooEntry:
    """Fetch a model, and the coarse models that its card names, from the sources into the user's zoo.

    Sizes and checksums come from the index of the first source that has the model; each file comes from any source
    that sends it so. An interrupted download is continued by the next one. A model that is there already is not
    fetched again.

    Args:
        name: full name, one without its version (the newest), or an alias.

    Raises:
        UnknownName: no source has it.
        BadInput: no source is known, or the model is too large.
        NameClash: the zoo has another model of that name and `overwrite` is not set.
        FileProblem, CorruptWeights: no source sends what its index says; or the disk is full.
    """
    given = options or FetchOptions()
    if given.pin and not re.fullmatch(SHA256, given.pin):
        raise BadInput(
            f"'{given.pin}' is no SHA-256.", hint="It has 64 digits 0-9 and a-f: --pin 3f5a..."
        )
    return _fetched(name, chosen(given.sources), given, ())


def _fetched(
    name: str, sources: list[Source], given: FetchOptions, behind: tuple[str, ...]
) -> ZooEntry:
    offer = find_offer(name, sources, given.pin, given.on_note)
    target = ZooEntry(offer.name, user_zoo(given.zoo) / offer.name)
    if offer.name in behind or len(behind) >= DEEPEST:
        raise CorruptWeights(f"The coarse models of {behind[0]} lead in a circle.")
    if offer.entry.deprecated:
        given.on_note(offer.entry.deprecated.about(offer.name))
    if not _is_there(target, offer.entry):
        check_free(target.folder, given.overwrite)
        _check_size(offer, given.max_bytes)
        first = offer.listing.source
        ordered = [first, *(source for source in sources if source != first)]
        with _partial_folder(target.zoo, offer, given.on_note) as folder:
            if not _is_there(target, offer.entry):  # another process was quicker
                _receive(offer, ordered, folder, given, behind)
                put_in_place(folder, target.folder, given.overwrite)
    _record(target.zoo, offer, name, given.on_note)
    return target


def _is_there(target: ZooEntry, wanted: IndexEntry) -> bool:
    """Whether the zoo holds exactly this model."""
    if not target.folder.is_dir():
        return False
    recorded = read_index(target.zoo).entries.get(target.name)
    return recorded is not None and recorded.files == wanted.files


def _check_size(offer: Offer, most: int) -> None:
    files, where = offer.entry.files, f"{offer.listing.source.url} offers {offer.name}"
    if CARD not in files or files[CARD].bytes > LARGEST_CARD:
        raise CorruptWeights(f"{where} without a card, or with a far too large one.")
    if len(files) > MOST_FILES:
        raise CorruptWeights(f"{where} in {len(files)} files; {MOST_FILES} are allowed.")
    for name in files:
        if not name.endswith(KINDS):
            raise CorruptWeights(
                f"{where} with the file {name}, which is no file of a model: {', '.join(KINDS)}."
            )
    if offer.entry.size > most:
        raise BadInput(
            f"{where} with {_amount(offer.entry.size)}; {_amount(most)} are allowed.",
            hint="Allow more: --max-size SIZE, e.g. 50G",
        )


def _amount(size: int) -> str:
    """Bytes for people, in the units of --max-size."""
    for unit, step in (("GB", 10**9), ("MB", 10**6)):
        if size >= step:
            return f"{size / step:,.1f} {unit}"
    return f"{size / 1000:,.1f} kB"


@contextlib.contextmanager
def _partial_folder(zoo: Path, offer: Offer, on_note: Callable[[str], None]) -> Iterator[Path]:
    """The folder of this download, kept on an error so that it can be continued; one process at a time."""
    folder = zoo / f"{PARTIAL}{offer.name}-{offer.entry.digest[:16]}"
    with disk_errors(zoo, option="--zoo"):
        zoo.mkdir(parents=True, exist_ok=True)
        clear_abandoned(zoo.glob(f"{PARTIAL}*"), older_s=KEEP_S, locked=False)
    waits = False
    while True:
        with disk_errors(folder, option="--zoo"):
            if folder.is_symlink():
                folder.unlink()
            folder.mkdir(exist_ok=True)
        with held(folder) as free:
            if free:
                for path in folder.iterdir():
                    if path.is_symlink() or path.name not in offer.entry.files:
                        shutil.rmtree(
                            path
                        ) if path.is_dir() and not path.is_symlink() else path.unlink()
                yield folder
                return
        if not waits:
            on_note(f"Another process fetches {offer.name}; waiting for it.")
        waits = True
        time.sleep(0.5)


def _receive(
    offer: Offer, sources: list[Source], folder: Path, given: FetchOptions, behind: tuple[str, ...]
) -> None:
    """Complete the files of a model and check them as they lie."""
    files, total = offer.entry.files, offer.entry.size
    have = sum(path.stat().st_size for path in folder.iterdir())
    check_room(folder, total - have)
    received = 0
    entry = ZooEntry(offer.name, folder)
    for name in [CARD, *(name for name in sorted(files) if name != CARD)]:
        done = functools.partial(_told, given.on_bytes, received, total)
        download(f"{offer.name}/{name}", files[name], sources, folder / name, done)
        received += files[name].bytes
        if name == CARD:
            _check_card(entry.card(), offer)
            _fetch_stages(entry.card(), sources, given, (*behind, offer.name), pinned=offer)
    resolve_entry(entry)


def _told(on_bytes: Callable[[float, float], None], before: int, total: int, count: int) -> None:
    on_bytes(before + count, total)


def _check_card(card: Card, offer: Offer) -> None:
    if card.name != offer.name:
        raise CorruptWeights(f"The card of {offer.name} calls it '{card.name}'.")
    missing = [m.file for m, _ in card.networks if m.file not in offer.entry.files]
    if missing or not card.members:
        raise CorruptWeights(
            f"{offer.listing.source.url} offers {offer.name} without its weights"
            + (f" {missing[0]}." if missing else ".")
        )


def _fetch_stages(
    card: Card,
    sources: list[Source],
    given: FetchOptions,
    behind: tuple[str, ...],
    *,
    pinned: Offer,
) -> None:
    """Fetch the coarse models that a card names and no zoo has."""
    for stage in card.stages:
        if stage.card is not None or stage.model in all_entries(given.zoo):
            continue
        given.on_note(f"{card.name} needs {stage.model}.")
        if given.pin == pinned.entry.digest:  # which says nothing about the other model
            raise BadInput(
                f"{card.name} needs {stage.model}, for which no checksum is pinned.",
                hint=f"Fetch it first: ctseg zoo fetch {stage.model} --pin SHA256",
            )
        _fetched(stage.model, sources, replace(given, overwrite=False), behind)


def _record(zoo: Path, offer: Offer, asked: str, on_note: Callable[[str], None]) -> None:
    """Keep what the other index says about a model: its aliases, and that it is deprecated.

    An alias that stands for another model here is moved only if the user asked for it.
    """
    theirs = offer.listing.index
    aliases = {alias: name for alias, name in theirs.aliases.items() if name == offer.name}

    def noted(index: ZooIndex) -> ZooIndex:
        taken = {a: m for a, m in index.aliases.items() if a in aliases and a != asked}
        entry = index.entries[offer.name].model_copy(update={"deprecated": offer.entry.deprecated})
        merged = index.with_entry(offer.name, entry)
        return merged.model_copy(update={"aliases": {**index.aliases, **aliases, **taken}})

    with contextlib.suppress(CorruptWeights, KeyError):
        index = read_index(zoo)
        if noted(index) != index:
            with locked(zoo):
                write_index(zoo, noted(read_index(zoo)))
        for alias, model in index.aliases.items():
            if alias in aliases and alias != asked and model != offer.name:
                on_note(
                    f"The alias '{alias}' still stands for {model}. To move it: "
                    f"ctseg zoo fetch {alias}, or ctseg zoo serve-index {zoo} --alias {alias}={offer.name}"
                )
