"""Whether published weights are what was published: every file, every tensor, and that they load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctseg.card import Card
from ctseg.engine.inference.backends.int8 import ranges_of
from ctseg.engine.model.runtime import choose
from ctseg.engine.model.weights_header import read_card
from ctseg.errors import CtsegError
from ctseg.zoo.folders import search_path
from ctseg.zoo.index import FileRecord
from ctseg.zoo.probe import PROBE, Expected, load_network, read_probe
from ctseg.zoo.resolve import find_entry, headers
from ctseg.zoo.store import CARD, ZooEntry, entries_in, file_record, read_index

NOT_LISTED = "the index of the zoo does not name it"
NO_PROBE = "no probe: published by an earlier ctseg, or where its network did not run"


@dataclass(frozen=True)
class Check:
    """What was found about one entry (or, under the name `index.json`, about a zoo's index).

    Attributes:
        problems: what is not as it was published.
        notes: what could not be compared.
    """

    name: str
    zoo: Path
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        return not self.problems


def verify(names: Sequence[str] = (), zoo: Path | str | None = None) -> list[Check]:
    """Check the named entries, or every entry of every zoo on the search path.

    Compared are the checksum of each file with the index, where that names the entry (a copied one it does not), of
    each set of tensors with the card, the card in each header with the one beside it; then the network is built, the
    weights are loaded strictly, and the network is run on the entry's probe, in fp32 on the CPU.

    Raises:
        UnknownName: a name that no zoo has.
    """
    if names:
        entries = [find_entry(name, zoo) for name in names]
        return [_check(e) for e in entries]
    checks = []
    for folder in search_path(zoo):
        found = entries_in(folder)
        checks += [_check(e) for e in found]
        checks += _stale(folder, {e.name for e in found})
    return checks


def _stale(zoo: Path, present: set[str]) -> list[Check]:
    try:
        lost = sorted(set(read_index(zoo).entries) - present)
    except CtsegError as error:
        return [Check("index.json", zoo, (error.message,))]
    return [Check(name, zoo, ("the index names it, and its folder is missing",)) for name in lost]


def _check(entry: ZooEntry) -> Check:
    problems: list[str] = []
    notes: list[str] = []
    try:
        recorded = read_index(entry.zoo).entries.get(entry.name)
    except CtsegError as error:
        problems = [error.message]
    else:
        if recorded is None:
            notes = [NOT_LISTED]
        else:
            problems = _against_index(entry, recorded.files)
    if not (entry.folder / PROBE).exists():
        notes.append(NO_PROBE)
    return Check(entry.name, entry.zoo, (*problems, *_problems(entry)), tuple(notes))


def _problems(entry: ZooEntry) -> list[str]:
    problems: list[str] = []
    try:
        card = entry.card()
    except CtsegError as error:
        return [error.message]
    if card.name != entry.name:
        problems.append(f"{CARD} calls it '{card.name}'")
    if not card.members:
        problems.append("the card names no weights")
    try:
        probe = read_probe(entry.folder)
    except CtsegError as error:
        probe = {}
        problems.append(error.message)
    for file, header in headers(entry.folder, card).items():
        problems += _weights_problems(file, header, probe.get(file.name))
    return problems


def _against_index(entry: ZooEntry, recorded: Mapping[str, FileRecord]) -> list[str]:
    files = [f for f in entry.folder.iterdir() if f.is_file()]
    present = {f.name: f for f in files if not f.name.startswith(".")}  # not those of file managers
    problems = [f"{name} is missing" for name in sorted(set(recorded) - set(present))]
    problems += [f"{name} is not in the index" for name in sorted(set(present) - set(recorded))]
    for name in sorted(set(recorded) & set(present)):
        if file_record(present[name]) != recorded[name]:
            problems.append(f"{name} has another checksum than the index says")
    return problems


def _weights_problems(file: Path, card: Card, expected: Expected | None) -> list[str]:
    if not file.is_file():
        return [f"{file.name} is missing"]
    try:
        problems = []
        if read_card(file) != card:
            problems.append(f"the card in the header of {file.name} differs from {CARD}")
        runtime = choose("cpu", "fp32")
        network = load_network(file, card.of_file(file.name), runtime)
        if card.int8 is not None and card.int8.inputs:
            ranges_of(card, file.name, network)
        if expected is not None:
            problems += expected.problems(network, runtime, file.name)
    except CtsegError as error:
        return [error.message]
    except Exception as error:  # one card that describes no network must not hide the others
        return [f"the network of {file.name} cannot be built: {type(error).__name__}: {error}"]
    return problems
