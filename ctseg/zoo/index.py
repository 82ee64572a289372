"""The index of a zoo, `index.json`: its models, their files with sizes and checksums, and what people choose by.

The index may come from a stranger's server, so names are checked here: nothing in it can name a path.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from ctseg.card import Card
from ctseg.config.checking import parse_json, validate
from ctseg.errors import ConfigError, CorruptWeights
from ctseg.zoo.folders import NAME

INDEX = "index.json"
VERSION = 1
LARGEST_INDEX = 2**24
"""Bytes; a model takes about one thousand."""
LONGEST_NAME = 128
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?<!\.)")
ALIAS = re.compile(r"[a-z0-9][a-z0-9_-]*")
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
"""Names that stand for devices on Windows, whatever follows the dot."""
MEND = "Restore it, or write it anew: ctseg zoo serve-index FOLDER"


class Plain(BaseModel):
    """Keys that a later version of ctseg adds are skipped."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class FileRecord(Plain):
    """Size and checksum of a file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, le=2**60)


class Deprecation(Plain):
    """Why a model should no longer be used.

    Attributes:
        successor: name of the model to use instead; empty if there is none.
        reason: a sentence.
    """

    successor: str = ""
    reason: str = ""

    def about(self, name: str) -> str:
        """The warning for the users of a model."""
        reason = f": {self.reason}" if self.reason else ""
        use = f" Use {self.successor} instead." if self.successor else ""
        return f"{name} is deprecated{reason.rstrip('.')}.{use}"


class About(Plain):
    """Excerpt of a card: what people choose a model by.

    Attributes:
        spacing_xyz: voxel size in mm that the network sees; None if it takes scans as they are.
        provider: package that contains the architecture.
    """

    summary: str = ""
    task: str = ""
    labels: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    spacing_xyz: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    mean_dice: FiniteFloat | None = None
    cases: int = 0
    licence: str = ""
    provider: str = ""

    @classmethod
    def of(cls, card: Card) -> About:
        """The excerpt of a card."""
        return cls(
            summary=card.summary,
            task=card.task.kind,
            labels=tuple(label.name for label in card.task.task().foreground),
            channels=card.channels,
            spacing_xyz=_spacing(card),
            mean_dice=card.metrics.mean_dice,
            cases=card.metrics.cases,
            licence=card.licence,
            provider=card.provider.package,
        )


def _spacing(card: Card) -> tuple[float, float, float] | None:
    """The spacing that a card resamples to; that of its first part, where there are parts."""
    for step in (card.parts[0] if card.parts else card).preprocess.steps:
        spacing = step.get("spacing_xyz")
        if step.get("kind") == "resample" and isinstance(spacing, list | tuple):
            x, y, z = map(float, spacing)
            return x, y, z
    return None


def _file_name(name: str) -> str:
    if not FILE.fullmatch(name) or len(name) > LONGEST_NAME or DEVICES.match(name):
        raise ValueError(f"{name[:LONGEST_NAME]!r} is no name of a file of a model")
    return name


class IndexEntry(Plain):
    """One model.

    Attributes:
        files: by their names.
        about: None if the card could not be read.
        deprecated: why it should no longer be used.
    """

    files: dict[Annotated[str, Field(strict=True)], FileRecord]
    about: About | None = None
    deprecated: Deprecation | None = None

    @field_validator("files")
    @classmethod
    def _names(cls, value: dict[str, FileRecord]) -> dict[str, FileRecord]:
        folded = {_file_name(name).casefold() for name in value}
        if len(folded) < len(value):
            raise ValueError("two files have names that differ only in case")
        return value

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.bytes for record in self.files.values())

    @property
    def digest(self) -> str:
        """SHA-256 over the checksums of the files: what `LC_ALL=C sha256sum * | sha256sum` prints in the folder."""
        lines = [f"{self.files[name].sha256}  {name}\n" for name in sorted(self.files)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class ZooIndex(Plain):
    """The whole index.

    Attributes:
        entries: the models, by name.
        aliases: short names of models, e.g. `liver` for `unet3d.liver_v3`.
    """

    version: int = Field(VERSION, ge=1)
    entries: dict[str, IndexEntry] = {}
    aliases: dict[str, str] = {}

    @model_validator(mode="after")
    def _named(self) -> ZooIndex:
        for name in self.entries:
            if not NAME.fullmatch(name) or len(name) > LONGEST_NAME or DEVICES.match(name):
                raise ValueError(f"{name[:LONGEST_NAME]!r} is no name of a model")
        for alias, name in self.aliases.items():
            if not ALIAS.fullmatch(alias) or len(alias) > LONGEST_NAME:
                raise ValueError(
                    f"{alias[:LONGEST_NAME]!r} is no alias: it has lower-case letters, digits, '_' and '-' only"
                )
            if name not in self.entries:
                raise ValueError(
                    f"the alias '{alias}' stands for '{name[:LONGEST_NAME]}', which is not there"
                )
        return self

    def with_entry(self, name: str, entry: IndexEntry | None) -> ZooIndex:
        """With a model added or replaced; or without it and its aliases."""
        entries = {key: value for key, value in self.entries.items() if key != name}
        aliases = self.aliases
        if entry is not None:
            entries[name] = entry
        else:
            aliases = {alias: model for alias, model in aliases.items() if model != name}
        return self.model_copy(update={"entries": entries, "aliases": aliases})

    def to_json(self) -> str:
        """The text of the file; sorted, so that the same models give the same bytes."""
        data: dict[str, Any] = {
            "version": VERSION,
            "entries": {name: _stored(self.entries[name]) for name in sorted(self.entries)},
        }
        if self.aliases:
            data["aliases"] = dict(sorted(self.aliases.items()))
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _stored(entry: IndexEntry) -> dict[str, Any]:
    data = entry.model_dump(mode="json", exclude_none=True)
    data["files"] = dict(sorted(data["files"].items()))
    return data


def parse_index(text: str | bytes, *, where: str) -> ZooIndex:
    """An index from JSON, checked.

    Raises:
        CorruptWeights: no index, a name that could be a path, or a file of a newer ctseg.
    """
    try:
        data = parse_json(text, unique=True)
    except ValueError as error:
        raise CorruptWeights(f"The index {where} is damaged: {error}.", hint=MEND) from error
    version = data.get("version") if isinstance(data, Mapping) else None
    if isinstance(version, int) and version > VERSION:
        raise CorruptWeights(
            f"The index {where} is of version {version}; this ctseg reads version {VERSION}.",
            hint="Update ctseg: pip install --upgrade ctseg",
        )
    if not isinstance(data, Mapping) or "entries" not in data:
        raise CorruptWeights(f"The index {where} is damaged: it lists no entries.", hint=MEND)
    try:
        index = validate(ZooIndex, data, where=where)
        index.to_json().encode()
    except ConfigError as error:
        raise CorruptWeights(f"The index {where} is damaged: {error.message}", hint=MEND) from error
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise CorruptWeights(
            f"The index {where} is damaged: it holds no text.", hint=MEND
        ) from error
    return index
