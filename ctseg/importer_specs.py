"""Specs of importers: what the hook `ctseg_importers` returns, and what an importer makes of a foreign model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ctseg.spec_tools import frozen

if TYPE_CHECKING:
    import torch

    from ctseg.card import Card


@dataclass(frozen=True)
class ImportedWeights:
    """One member of an imported model.

    Attributes:
        name: name of the weight file without its suffix, e.g. `fold0`.
        tensors: tensors by their names in the network that the card describes.
        fold: its validation fold, if any.
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    fold: int | None = None


@dataclass(frozen=True)
class ImportedModel:
    """A model of another project with a ctseg card.

    Attributes:
        card: complete except for its name and members, which the import adds. Its licence is empty if the source names
            none.
        members: the weights; several form an ensemble.
        tag: proposed tag, the second part of the name.
        notes: notes for the user, such as an option that makes predictions equal to those of the source.
        first: a model whose labels the network takes as further channels; it becomes an entry of its own.
    """

    card: Card
    members: Sequence[ImportedWeights]
    tag: str
    notes: tuple[str, ...] = ()
    first: ImportedModel | None = None


def _nothing(path: Path) -> Sequence[Path]:  # noqa: ARG001 - as every importer has it
    return ()


@dataclass(frozen=True)
class ImporterSpec:
    """A kind of foreign model that `ctseg zoo import NAME PATH` imports.

    Attributes:
        name: e.g. `nnunet`.
        recognise: tells whether a path holds such a model, from names and small files only; if so,
            `ctseg predict -m PATH` imports it automatically.
        read: `read(paths, **options) -> ImportedModel`. It must not run code of the source: no pickles with classes,
            no expressions.
        summary: one line for the listing.
        paths: metavar of each path, e.g. `RESULTS_FOLDER`.
        options: option names and their meaning; values arrive as text.
        beside: further files or folders that `read` opens for a path that it recognises, such as the first stage of a
            cascade; `ctseg predict` imports the model again when they change.
    """

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[..., ImportedModel]
    summary: str
    paths: tuple[str, ...] = ("PATH",)
    options: Mapping[str, str] = field(default_factory=frozen)
    beside: Callable[[Path], Sequence[Path]] = _nothing
