"""The first stages of runs, published with them: one set of weights for each member of the entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ctseg.card import Card, CoarseStage
from ctseg.engine.model.weights import read_weights
from ctseg.errors import BadInput, CorruptWeights

FOLDER = "first_stage"


def read_first_stages(
    folders: Sequence[Path], cards: Sequence[Card]
) -> list[tuple[dict[str, torch.Tensor], Card]]:
    """The weights of the first stage of each run, with their cards; none where the runs have no first stage.

    Raises:
        BadInput: some runs have a first stage, and others have none or another margin.
        CorruptWeights: the weights beside a run are not those that it was trained behind.
        FileProblem: they are missing.
    """
    own = [[stage for stage in card.stages if stage.card is not None] for card in cards]
    if not any(own):
        return []
    found = []
    for stages, folder in zip(own, folders, strict=True):
        if not stages or [s.margin_mm for s in stages] != [s.margin_mm for s in own[0]]:
            raise BadInput(
                f"{folders[0]} and {folder} cannot be one ensemble: their first stages differ, or one has none.",
                hint="Train every fold from the config.toml of the first: ctseg train CONFIG --fold N",
            )
        card = stages[0].card
        assert card is not None
        file = folder / card.members[0].file
        tensors, header = read_weights(file)
        if header != card:
            raise CorruptWeights(
                f"{file} is another first stage than the one that {folder} was trained behind.",
                hint=f"Train it again: ctseg train {folder / 'config.toml'} --overwrite -o {folder}",
            )
        found.append((tensors, header))
    return found


def own_stage(card: Card, stage: Card) -> CoarseStage:
    """The first stage of a run as its entry names it.

    Args:
        card: of the run.
        stage: of the first stage, completed.
    """
    first = next(one for one in card.stages if one.card is not None)
    return first.model_copy(update={"model": stage.name, "card": stage})


def of_member(stages: Sequence[CoarseStage], number: int) -> tuple[CoarseStage, ...]:
    """The stages as one member of an ensemble was trained behind: of its own first stage, only its member."""
    return tuple(
        stage
        if stage.card is None
        else stage.model_copy(
            update={
                "card": stage.card.model_copy(update={"members": (stage.card.members[number],)})
            }
        )
        for stage in stages
    )
