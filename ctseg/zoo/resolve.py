"""From what a user types after `-m` to weight files: a run folder, a weight file, an entry or a name alike."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctseg.card import Card, CoarseStage
from ctseg.engine.model.weights_header import MEND, read_card
from ctseg.errors import (
    BadInput,
    CorruptWeights,
    CtsegError,
    CtsegWarning,
    FileProblem,
    NameClash,
    UnknownName,
)
from ctseg.zoo.folders import NAME, search_path
from ctseg.zoo.index import ALIAS, ZooIndex
from ctseg.zoo.names import fitting
from ctseg.zoo.store import CARD, ZooEntry, entries_in, read_index

BEST = "best.safetensors"
RUN_FILE = "config.toml"


class UnknownModel(UnknownName):
    """A name of a model that no zoo on the search path has."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__("model", name, known, listing="ctseg zoo list")
        if NAME.fullmatch(name) or ALIAS.fullmatch(name):
            self.hint = f"{self.hint}\n  To fetch it: {fetch_command(name)}"


def fetch_command(name: str) -> str:
    """The command that fetches a model from the user's sources, or from one that is yet to be named."""
    from ctseg.zoo.sources import configured

    with contextlib.suppress(CtsegError):
        if configured().source:
            return f"ctseg zoo fetch {name}   (ctseg predict does it with --fetch)"
    return f"ctseg zoo fetch {name} --from URL"


@dataclass(frozen=True)
class Resolved:
    """A model that was found.

    Attributes:
        card: its description.
        files: the weight files; several for an ensemble.
        name: the zoo name, or the path that was given.
        zoo: where its stages are looked up, if it was imported on the way.
    """

    card: Card
    files: tuple[Path, ...]
    name: str
    zoo: Path | None = None


def resolve_model(
    text: str | Path,
    zoo: Path | str | None = None,
    *,
    on_note: Callable[[str], None] | None = None,
) -> Resolved:
    """The model that a path or name stands for. That of another project is imported on the way, once.

    Args:
        text: run folder, weight file, entry folder, or a zoo name, with or without its version; or an alias. The
            bare architecture does where one entry fits.
        zoo: zoo to look in first instead of the user's own.
        on_note: told of an import.

    Raises:
        UnknownModel: no entry has the name; the message has the nearest one, and how to fetch it.
        BadInput: several entries fit, or the path holds no model.
        NameClash: two zoos hold different models of that name.
        CorruptWeights: the files are not what the card says.
    """
    path = Path(text).expanduser()
    found = _in_folder(path) if path.is_dir() else None
    if found is not None:
        return found
    if path.is_dir() or (path.is_file() and path.suffix != ".safetensors"):
        from ctseg.zoo.importers.on_the_way import imported  # only where it is needed: torch

        entry = imported(path, on_note)
        if entry is not None:
            return dataclasses.replace(resolve_entry(entry), zoo=entry.zoo)
    if path.is_file():
        return Resolved(read_card(path), (path,), str(text))
    if path.suffix == ".safetensors" or len(path.parts) > 1 or str(text).endswith(os.sep):
        raise _no_model(path)
    entry = find_entry(str(text), zoo)
    warn_deprecated(entry)
    return resolve_entry(entry)


def weight_file(text: str | Path, zoo: Path | str | None = None) -> Path:
    """The weights that a training begins with: the file of a model, of an ensemble that of its first member.

    Raises:
        UnknownModel, BadInput, NameClash, CorruptWeights: as `resolve_model`.
    """
    return resolve_model(text, zoo).files[0].resolve()


def resolve_entry(entry: ZooEntry) -> Resolved:
    """The model of a zoo entry; the card in each header must be the one beside the weights.

    Raises:
        CorruptWeights: a weight file is missing, or the cards differ.
    """
    card = entry.card()
    files = entry.weights()
    if not files:
        raise CorruptWeights(
            f"The card of {entry.name} in {entry.zoo} names no weights.", hint=MEND
        )
    for file, header in headers(entry.folder, card).items():
        if not file.is_file():
            raise CorruptWeights(
                f"{file.name} of {entry.name} is missing in {entry.folder}.", hint=MEND
            )
        if read_card(file) != header:
            raise CorruptWeights(
                f"The card in the header of {file} differs from {CARD} beside it.", hint=MEND
            )
    return Resolved(card, files, entry.name)


def headers(folder: Path, card: Card) -> dict[Path, Card]:
    """The weight files of an entry, each with the card that its header should hold: a stage of its own has its own."""
    own = {folder / member.file: card for member in card.members}
    stages = [stage.card for stage in card.stages if stage.card is not None]
    return own | {folder / member.file: stage for stage in stages for member in stage.members}


def check_stages(
    name: str,
    stages: Sequence[CoarseStage],
    zoo: Path | str | None = None,
    *,
    behind: tuple[str, ...] = (),
) -> None:
    """Refuse stages that nobody published, and those that lead back to the model that they stand before.

    Args:
        name: of that model; empty where it is not published.
        behind: the models that it stands before itself.

    Raises:
        UnknownName, BadInput, NameClash, CorruptWeights: as `resolve_model`.
    """
    way = (*behind, name)
    for stage in stages:
        if stage.card is not None:  # its weights lie beside those of the model
            continue
        if stage.model in way:
            raise BadInput(
                f"The coarse models lead in a circle: "
                f"{' looks where '.join(filter(None, (*way, stage.model)))} finds something.",
                hint="Name another coarse model: --coarse NAME",
            )
        found = resolve_entry(find_entry(stage.model, zoo))
        check_stages(found.name, found.card.stages, zoo, behind=way)


def find_entry(name: str, zoo: Path | str | None = None) -> ZooEntry:
    """The entry of a full name, of one without its version (the newest), or of an alias.

    A bare architecture does where one entry fits.

    Raises:
        UnknownModel, BadInput, NameClash: as `resolve_model`.
    """
    found = all_entries(zoo)
    indexes = _indexes(zoo)
    aliases = {
        alias: model for index in reversed(indexes) for alias, model in index.aliases.items()
    }
    names = fitting(name, found, aliases, _deprecated(indexes))
    if not names:
        raise UnknownModel(name, {*found, *aliases})
    if len(names) > 1:
        raise BadInput(
            f"'{name}' fits {len(names)} models: {', '.join(names)}.",
            hint="Give the full name.",
        )
    first, *others = found[names[0]]
    for other in others:
        if not _same(first, other):
            raise NameClash(
                f"Two zoos hold different models named '{first.name}': {first.folder} and {other.folder}.",
                hint="Give the folder itself after -m, or remove one of the two: ctseg zoo remove NAME",
            )
    return first


def _indexes(zoo: Path | str | None) -> list[ZooIndex]:
    """The indexes on the search path; `verify` tells of damaged ones."""
    found = []
    for folder in search_path(zoo):
        with contextlib.suppress(CorruptWeights):
            found.append(read_index(folder))
    return found


def _deprecated(indexes: Sequence[ZooIndex]) -> set[str]:
    return {name for index in indexes for name, entry in index.entries.items() if entry.deprecated}


def warn_deprecated(entry: ZooEntry) -> None:
    """Warn of a model whose zoo says that it should no longer be used."""
    with contextlib.suppress(CorruptWeights):
        listed = read_index(entry.zoo).entries.get(entry.name)
        if listed is not None and listed.deprecated is not None:
            warnings.warn(CtsegWarning(listed.deprecated.about(entry.name)), stacklevel=3)


def all_entries(zoo: Path | str | None = None) -> dict[str, list[ZooEntry]]:
    """Every entry on the search path, by name; several where zoos share a name."""
    found: dict[str, list[ZooEntry]] = {}
    for folder in search_path(zoo):
        for entry in entries_in(folder):
            found.setdefault(entry.name, []).append(entry)
    return dict(sorted(found.items()))


def list_weights(pattern: str = "*", zoo: Path | str | None = None) -> list[str]:
    """The names of published models that match a shell pattern, e.g. `unet3d.*`."""
    return fnmatch.filter(all_entries(zoo), pattern)


def _same(one: ZooEntry, two: ZooEntry) -> bool:
    try:
        return one.card() == two.card()
    except CtsegError:
        return False


def _in_folder(path: Path) -> Resolved | None:
    if (path / CARD).is_file():
        return resolve_entry(ZooEntry(path.resolve().name, path))
    if (path / BEST).is_file():
        return Resolved(read_card(path / BEST), (path / BEST,), str(path))
    if (path / RUN_FILE).is_file():
        raise BadInput(
            f"The run {path} has no {BEST} yet: nothing was validated in it.",
            hint=f"Let it train on: ctseg train --resume {path}",
        )
    return None


def _no_model(path: Path) -> CtsegError:
    if path.exists():
        return BadInput(
            f"{path} holds no model: neither a run ({BEST}) nor a zoo entry ({CARD}).",
            hint="Published models: ctseg zoo list",
        )
    return FileProblem(
        f"The model {path} does not exist.", hint="Check the path, or see: ctseg zoo list"
    )
