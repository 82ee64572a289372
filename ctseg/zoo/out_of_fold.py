"""The members of an ensemble of folds that did not train on the cases of a fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ctseg.engine.evaluation.runs import runs_in
from ctseg.errors import BadInput
from ctseg.zoo.first_stage import of_member
from ctseg.zoo.resolve import Resolved, resolve_model


def folds_of(models: Sequence[str | Path], zoo: Path | str | None = None) -> tuple[int, ...]:
    """The folds of which an ensemble has members.

    Args:
        models: as in `ctseg.zoo.load.load`.

    Raises:
        UnknownModel, BadInput, NameClash, CorruptWeights: as `resolve_model`.
        BadInput: a single network, or members that do not say which fold validated them.
    """
    names = [run for one in models for run in runs_in(Path(one).expanduser()) or (one,)]
    found = [fold for name in names for fold in _folds(resolve_model(name, zoo))]
    known = sorted({fold for fold in found if fold is not None})
    if len(known) < 2 or None in found:
        raise BadInput(
            f"{', '.join(map(str, models))} is no ensemble of folds, of which each predicts the cases that it did not "
            "train on.",
            hint="Name the fold that validated it: --fold 0",
        )
    return tuple(known)


def out_of_fold(
    models: Sequence[Resolved], fold: int, on_note: Callable[[str], None] | None = None
) -> list[Resolved]:
    """The models with only those members that a fold validated; a single network, and members of no fold, stay.

    Args:
        on_note: told of a single network that another fold validated.

    Raises:
        BadInput: members of other folds only, which have trained on its cases.
    """
    folds = [known for model in models for known in _folds(model)]
    if len({model.card.training_data.folds for model in models}) > 1:
        raise BadInput(
            "The cases of these models were dealt into different numbers of folds.",
            hint="Predict the fold of one of them at a time.",
        )
    if len(folds) < 2 or None in folds:
        if on_note is not None and len(folds) == 1 and folds[0] not in (None, fold):
            on_note(
                f"{models[0].name} was validated on fold {folds[0]}: it trained on the cases of fold {fold}, unless "
                "this is another data set. Scores of these predictions would be too high."
            )
        return list(models)
    if fold not in folds:
        there = ", ".join(
            str(known) for known in sorted({known for known in folds if known is not None})
        )
        raise BadInput(
            f"Every member of {models[0].name} has trained on the cases of fold {fold}; there are members of the folds "
            f"{there}.",
            hint="Predict these, or leave out --fold.",
        )
    return [one for model in models if (one := _members(model, fold)) is not None]


def _members(model: Resolved, fold: int) -> Resolved | None:
    kept = [number for number, known in enumerate(_folds(model)) if known == fold]
    if not kept or len(model.files) == 1:
        return model if kept else None
    card = model.card
    stages = of_member(card.stages, kept[0])
    members = tuple(card.members[number] for number in kept)
    files = tuple(model.files[number] for number in kept)
    update = {"members": members, "stages": stages}
    return dataclasses.replace(model, card=card.model_copy(update=update), files=files)


def _folds(model: Resolved) -> list[int | None]:
    """The fold of each file of weights; of parts none, since all of them make one prediction."""
    card = model.card
    if card.parts:
        return [None] * len(model.files)
    if len(model.files) == 1:
        own = next((m.fold for m in card.members if m.file == model.files[0].name), None)
        return [card.training_data.fold if own is None else own]
    return [member.fold for member in card.members]
