"""Several imported models that part the labels among them, as one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ctseg.card import Card, Member, TrainingData, TrainingScans
from ctseg.config import LabelConfig, TaskConfig
from ctseg.errors import BadInput
from ctseg.importer_specs import ImportedModel, ImportedWeights

PART = re.compile(r"[a-z0-9][a-z0-9_]*")


def merged(models: Mapping[str, ImportedModel]) -> ImportedModel:
    """One model of several, by name of the part.

    Labels are numbered through in the order of the parts. Where two parts see something, the later one counts, as in
    TotalSegmentator.

    Raises:
        BadInput: parts that take different channels or share a label, or an unusable name.
    """
    for name in models:
        if not PART.fullmatch(name):
            raise BadInput(
                f"'{name}' cannot be the name of a part.",
                hint="Use lower-case letters, digits and underscores: --merge vertebrae=FOLDER",
            )
    first = next(iter(models.values()))
    for name, model in models.items():
        if model.first is not None:
            raise BadInput(
                f"The part '{name}' is a cascade, which cannot be merged with others.",
                hint="Merge another configuration of it.",
            )
        if model.card.channels != first.card.channels:
            raise BadInput(
                f"The part '{name}' takes the channels {', '.join(model.card.channels)}; the first one takes "
                f"{', '.join(first.card.channels)}."
            )
    members = [
        ImportedWeights(f"{name}_{one.name}", one.tensors, one.fold)
        for name, model in models.items()
        for one in model.members
    ]
    task = _task({name: model.card for name, model in models.items()})
    rules = [rule for model in models.values() for rule in model.card.predict.postprocess]
    parts = tuple(
        model.card.model_copy(
            update={
                "name": name,
                "members": tuple(_placeholder(f"{name}_{one.name}", one) for one in model.members),
                "predict": model.card.predict.model_copy(update={"postprocess": ()}),
            }
        )
        for name, model in models.items()
    )
    card = first.card
    cards = [model.card for model in models.values()]
    source = card.source
    if source is not None:
        left_out = [
            f"{name}: {what}"
            for name, model in models.items()
            for what in (model.card.source.left_out if model.card.source else ())
        ]
        names = {
            name: model.card.source.name for name, model in models.items() if model.card.source
        }
        source = source.model_copy(
            update={"details": names, "files_sha256": {}, "left_out": tuple(left_out)}
        )
    card = card.model_copy(
        update={
            "summary": f"{', '.join(models)}: {len(task.labels) - 1} labels of {len(models)} models",
            "task": task,
            "out_channels": len(task.labels),
            "predict": card.predict.model_copy(update={"postprocess": tuple(rules)}),
            "parts": parts,
            "members": tuple(member for part in parts for member in part.members),
            "licence": _of_all(card.licence for card in cards),
            "attribution": " ".join(dict.fromkeys(map(credit, cards))),
            "training_data": _data([card.training_data for card in cards]),
            "source": source,
            "training_scans": TrainingScans.joined([card.training_scans for card in cards]),
        }
    )
    notes = dict.fromkeys(note for model in models.values() for note in model.notes)
    return ImportedModel(card, members, f"{first.tag}_merged", tuple(notes))


def credit(card: Card) -> str:
    """Whom to credit for the weights: as the card says, else the data that they were trained on."""
    data = card.training_data
    licence = f" ({data.licence})" if data.licence else ""
    return card.attribution or f"Derived from {data.name}{licence}."


def _data(several: Sequence[TrainingData]) -> TrainingData:
    """What all parts were trained on."""
    first = several[0]
    if all(data == first for data in several):
        return first
    return TrainingData(
        name=", ".join(dict.fromkeys(data.name for data in several)),
        licence=_of_all(data.licence for data in several),
        reference="; ".join(dict.fromkeys(data.reference for data in several if data.reference)),
    )


def _of_all(licences: Iterable[str]) -> str:
    """The licences, each once; none where one of them is not known."""
    known = dict.fromkeys(licences)
    return "" if "" in known else "; ".join(known)


def _placeholder(name: str, one: ImportedWeights) -> Member:
    """A member whose checksum is known once its weights are stored."""
    return Member(file=f"{name}.safetensors", tensors_sha256="0" * 64, fold=one.fold)


def _task(cards: Mapping[str, Card]) -> TaskConfig:
    labels = [LabelConfig(name="background", values=(0,), value=0)]
    owner: dict[str, str] = {}
    for name, card in cards.items():
        for label in card.task.task().foreground:
            if label.name in owner or label.name == "background":
                raise BadInput(
                    f"The parts '{owner.get(label.name)}' and '{name}' both have a label '{label.name}'.",
                    hint="Parts of one model part the labels among them.",
                )
            owner[label.name] = name
            number = len(labels)
            labels.append(LabelConfig(name=label.name, values=(number,), value=number))
    return TaskConfig(kind="classes", labels=tuple(labels))
