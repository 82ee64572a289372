"""An imported model as an entry of a zoo: weights checked and written, card completed, all or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ctseg import plugins
from ctseg.card import Card, CoarseStage, Member
from ctseg.engine.model.weights import cast, save_weights, tensors_sha256
from ctseg.errors import BadInput
from ctseg.files import write_text
from ctseg.importer_specs import ImportedModel, ImporterSpec
from ctseg.zoo.folders import NAME, user_zoo
from ctseg.zoo.importers.merge import credit, merged
from ctseg.zoo.new_entry import TAG, Dtype, check_free, new_folder, put_in_place
from ctseg.zoo.probe import write_probe
from ctseg.zoo.readme import render
from ctseg.zoo.store import CARD, README, ZooEntry

FIRST_PART = "first"
"""Name of the part that is named before those to merge."""


@dataclasses.dataclass(frozen=True)
class EntryOptions:
    """How an imported model is stored.

    Attributes:
        tag: second part of the name; made from the source's own names by default.
        zoo: where it goes; the user's own zoo by default.
        dtype: how floating tensors are stored.
        licence: of the weights, where the source does not say it.
        overwrite: whether an entry of that name may be replaced.
    """

    tag: str | None = None
    zoo: Path | str | None = None
    dtype: Dtype = "fp32"
    licence: str = ""
    overwrite: bool = False

    def name_of(self, model: ImportedModel) -> str:
        """The name of the model's entry."""
        return f"{model.card.architecture}.{model.tag if self.tag is None else self.tag}"


DEFAULT = EntryOptions()


def read_model(
    importer: ImporterSpec, paths: Sequence[Path], options: Mapping[str, str]
) -> ImportedModel:
    """What an importer makes of the paths.

    Raises:
        BadInput: an option that it does not have, or a model that it does not understand.
    """
    unknown = [name for name in options if name not in importer.options]
    if unknown:
        raise BadInput(
            f"The importer '{importer.name}' has no option '{unknown[0]}'.",
            hint=f"Its options: {', '.join(importer.options) or 'none'}",
        )
    return importer.read(paths, **options)


def import_model(
    kind: str,
    paths: Sequence[Path | str],
    entry: EntryOptions = DEFAULT,
    *,
    options: Mapping[str, str] | None = None,
    merge: Mapping[str, Path | str] | None = None,
) -> tuple[ZooEntry, tuple[str, ...]]:
    """Take a foreign model over into a zoo.

    Args:
        kind: name of the importer, e.g. `nnunet`.
        paths: as the importer takes them.
        entry: how it is stored in the zoo.
        options: of the importer.
        merge: further models by name; with the first one they part the labels of the whole among them.

    Returns:
        the entry, and what the user should know about it.

    Raises:
        BadInput: a model that is not understood, no licence, or an unusable tag.
        NameClash: the name is taken and `overwrite` is not set.
    """
    spec = plugins.importer(kind)
    given = options or {}
    model = read_model(spec, [Path(path).expanduser() for path in paths], given)
    if merge:
        parts = {FIRST_PART: model}
        for name, path in merge.items():
            parts[name] = read_model(spec, [Path(path).expanduser()], given)
        model = merged(parts)
    return write_entry(model, entry), model.notes


def write_entry(model: ImportedModel, options: EntryOptions) -> ZooEntry:
    """Write what an importer read, the stage before it too; errors as for `import_model`."""
    with contextlib.ExitStack() as stack:
        written = [stack.enter_context(_written(*one)) for one in _stages(model, options)]
        for temporary, entry in written:
            put_in_place(temporary, entry.folder, options.overwrite)
    return written[-1][1]


def _stages(
    model: ImportedModel, options: EntryOptions
) -> list[tuple[ImportedModel, EntryOptions]]:
    """The models that become entries of their own, in the order of their use."""
    name = options.name_of(model)
    _check_name(name)
    check_free(user_zoo(options.zoo) / name, options.overwrite)
    if model.first is None:
        return [(model, options)]
    tag = model.first.tag if options.tag is None else f"{options.tag}_first"
    before = dataclasses.replace(options, tag=tag)
    labels = sorted(model.first.card.task.task().foreground, key=lambda label: label.value)
    stage = CoarseStage(
        model=before.name_of(model.first),
        labels=tuple(label.name for label in labels),
        as_channels=True,
    )
    card = model.card.model_copy(update={"stages": (stage,)})
    own = dataclasses.replace(model, card=card, first=None)
    return [*_stages(model.first, before), (own, options)]


@contextlib.contextmanager
def _written(model: ImportedModel, options: EntryOptions) -> Iterator[tuple[Path, ZooEntry]]:
    """The files of a model in a temporary folder, and the entry that they become."""
    card, zoo, name = model.card, user_zoo(options.zoo), options.name_of(model)
    licence = options.licence or card.licence
    if not licence:
        silent = [one.training_data.name for one in card.parts or (card,) if not one.licence]
        raise BadInput(
            f"Nothing says under which licence this model may be used: {', '.join(silent)} names none.",
            hint="Say it: --licence 'CC BY 4.0' (what the licence of the training data allows)",
        )
    stored = {f"{one.name}.safetensors": cast(one.tensors, options.dtype) for one in model.members}
    members = tuple(
        Member(file=file, tensors_sha256=tensors_sha256(stored[file]), fold=one.fold)
        for file, one in zip(stored, model.members, strict=True)
    )
    card = completed(card, name, members, licence)
    with new_folder(zoo) as temporary:
        for file, tensors in stored.items():
            save_weights(temporary / file, tensors, card)
        sizes = {file: (temporary / file).stat().st_size for file in stored}
        write_text(temporary / CARD, card.to_json() + "\n")
        write_text(temporary / README, render(card, sizes))
        write_probe(temporary, card)
        yield temporary, ZooEntry(name, zoo / name)


def _check_name(name: str) -> None:
    if not TAG.fullmatch(name.partition(".")[2]) or not NAME.fullmatch(name):
        raise BadInput(
            f"'{name}' cannot be the name of a model.",
            hint="Use lower-case letters, digits and underscores, e.g. --tag hippocampus_v1",
        )


def completed(card: Card, name: str, members: tuple[Member, ...], licence: str) -> Card:
    """The card with its name, members and licence, checked anew."""
    known = {member.file: member for member in members}
    parts = tuple(
        part.model_copy(update={"members": tuple(known[m.file] for m in part.members)})
        for part in card.parts
    )
    update = {
        "name": name, "members": members, "licence": licence, "parts": parts,
        "attribution": credit(card),
    }  # fmt: skip
    return Card.model_validate(card.model_copy(update=update).model_dump())
