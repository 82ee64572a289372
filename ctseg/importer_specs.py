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
        name: of the weight file without its ending, e.g. `fold0`.
        tensors: under the names of the network that the card describes.
        fold: that validated it, where there is one.
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    fold: int | None = None


@dataclass(frozen=True)
class ImportedModel:
    """A model of another project, described as one of ours.

    Attributes:
        card: complete but for its name and members, which the import adds. Its licence is empty where the source
            names none.
        members: the weights; several make an ensemble.
        tag: proposed second part of the name.
        notes: what the user should know, such as an option that makes predictions equal to those of the source.
        first: a model whose labels the network takes as further channels, which becomes an entry of its own.
    """

    card: Card
    members: Sequence[ImportedWeights]
    tag: str
    notes: tuple[str, ...] = ()
    first: ImportedModel | None = None


@dataclass(frozen=True)
class ImporterSpec:
    """A kind of foreign model that `ctseg zoo import NAME PATH` takes over.

    Attributes:
        name: e.g. `nnunet`.
        recognise: says whether a path holds such a model, by looking at names and small files only; where it does,
            `ctseg predict -m PATH` imports on the way.
        read: `read(paths, **options) -> ImportedModel`. It runs no code of the source: no pickle with classes, no
            expressions.
        summary: one line for the listing.
        paths: what each path is, e.g. `RESULTS_FOLDER`.
        options: option names and their meaning; values arrive as text.
    """

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[..., ImportedModel]
    summary: str
    paths: tuple[str, ...] = ("PATH",)
    options: Mapping[str, str] = field(default_factory=frozen)
