"""What the zoos elsewhere offer: their indexes, and the model that a name stands for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ctseg.errors import CtsegError, FileProblem, UnknownName
from ctseg.zoo.index import INDEX, LARGEST_INDEX, IndexEntry, ZooIndex, parse_index
from ctseg.zoo.names import fitting
from ctseg.zoo.remote.download import read_small
from ctseg.zoo.remote.streams import SourceProblem
from ctseg.zoo.sources import Source

OnNote = Callable[[str], None]


@dataclass(frozen=True)
class Listing:
    """The index of a source.

    Attributes:
        sha256: of the index as it was sent.
    """

    source: Source
    index: ZooIndex
    sha256: str


@dataclass(frozen=True)
class Offer:
    """A model that a source offers."""

    name: str
    entry: IndexEntry
    listing: Listing


def read_listing(source: Source) -> Listing:
    """Read the index of a source.

    Raises:
        SourceProblem: it cannot be read, or is not the pinned one.
        CorruptWeights: it is damaged.
    """
    content = read_small(source, INDEX, LARGEST_INDEX)
    sha256 = hashlib.sha256(content).hexdigest()
    if source.pin and sha256 != source.pin:
        raise SourceProblem(
            f"{source.file(INDEX)} has the SHA-256 {sha256}, and {source.pin} is pinned.",
            hint="Ask whoever runs that zoo for the new checksum, and put it in sources.toml.",
        )
    return Listing(source, parse_index(content, where=source.file(INDEX)), sha256)


def listings(sources: Sequence[Source], on_note: OnNote) -> list[Listing]:
    """The indexes of the sources that can be read; the others are told.

    Raises:
        CtsegError: none can be read.
    """
    found: list[Listing] = []
    problems: list[CtsegError] = []
    for source in sources:
        try:
            found.append(read_listing(source))
        except CtsegError as problem:
            problems.append(problem)
    if not found:
        raise problems[0]
    for unread in problems:
        on_note(unread.message)
    return found


def find_offer(name: str, sources: Sequence[Source], pin: str, on_note: OnNote) -> Offer:
    """The model of that name at the first source that has it.

    Args:
        pin: SHA-256 of an index or of an entry, which the model must have then; may be empty.

    Raises:
        UnknownName: no source has it.
        FileProblem: several fit, or the only sources that have it are not protected.
    """
    known: set[str] = set()
    refused: CtsegError | None = None
    for listing in listings(sources, on_note):
        index = listing.index
        known |= {*index.entries, *index.aliases}
        deprecated = {key for key, one in index.entries.items() if one.deprecated}
        names = fitting(name, index.entries, index.aliases, deprecated)
        if len(names) > 1:
            raise FileProblem(
                f"'{name}' fits {len(names)} models of {listing.source.url}: {', '.join(names[:12])}.",
                hint="Give the full name.",
            )
        if names:
            entry = index.entries[names[0]]
            offer = Offer(names[0], entry, listing)
            try:
                _check_trust(offer, pin)
            except SourceProblem as problem:
                refused = refused or problem
                continue
            return offer
    if refused is not None:
        raise refused
    raise UnknownName("model", name, known, listing=f"ctseg zoo list --from {sources[0].url}")


def _check_trust(offer: Offer, pin: str) -> None:
    """Refuse what has another checksum than the user named, and what nothing protects."""
    source = offer.listing.source
    if pin and pin not in (offer.listing.sha256, offer.entry.digest):
        raise SourceProblem(
            f"Neither the index of {source.url} nor {offer.name} has the SHA-256 {pin} that --pin names.",
            hint="The zoo has changed, or something else was sent. Ask whoever gave you the checksum.",
        )
    if not (source.protected or source.pin or pin):
        raise SourceProblem(
            f"{source.url} is not protected: whoever is on the way can change what it sends.",
            hint="Name https://, or the checksum that the zoo's owner gave you: --pin SHA256 (ctseg zoo serve-index "
            "prints it).",
        )
