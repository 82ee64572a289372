"""The card of a model: all that is needed to use the weights, and to judge them. Data only, no code.

It stands in the header of the safetensors file, so that the weights alone are enough, and as `card.json` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ctseg.card_int8 import Int8
from ctseg.card_metrics import INTERVALS, Metrics
from ctseg.config import LossConfig, PredictConfig, PreprocessConfig, Section, TaskConfig
from ctseg.config.checking import parse_json, validate
from ctseg.errors import ConfigError, CorruptWeights
from ctseg.version import __version__

CARD_VERSION = 2
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Zyx = tuple[Size, Size, Size]
HEADER_KEY = "ctseg_card"
"""The key of the card in the metadata of a safetensors file."""


class Provider(Section):
    """The plugin that registers the architecture or a preprocessing step.

    Attributes:
        package: to install where it is missing.
        version: with which the model was trained.
    """

    package: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    version: str = ""


class TrainingData(Section):
    """What the weights were trained on; its licence binds them.

    Attributes:
        name: of the data set.
        licence: of the data.
        reference: where they come from.
        cases: that trained.
        fold: that validated; None where cases were named.
        folds: number of folds that the cases were dealt into; None for five, or those that the data set brings.
    """

    name: str
    licence: str = ""
    reference: str = ""
    cases: int = 0
    fold: int | None = None
    folds: int | None = Field(None, ge=2)


class Member(Section):
    """One set of weights: a single model has one, an ensemble several whose probabilities are averaged.

    Attributes:
        file: name beside the card.
        tensors_sha256: checksum over names, types, shapes and bytes of the tensors.
        fold: that validated this member.
    """

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")
    tensors_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    fold: int | None = None


class CoarseStage(Section):
    """A model that says where to look, before this one looks there; or whose labels this one sees.

    Attributes:
        model: its zoo name; of one that belongs to this entry alone, whose card is here, what it is called.
        labels: the only ones of its labels that count; all where there are none.
        margin_mm: kept around what it finds.
        as_channels: its labels, which must be named then, are further channels of this model's network, 0 or 1 each
            (nnU-Net's cascade); it does not say where to look.
        card: of a model whose weights lie beside those of this one, since they were trained together.
    """

    model: str = Field(pattern=r"^[a-z0-9_]+\.[A-Za-z0-9][A-Za-z0-9._-]*$")
    labels: tuple[str, ...] = ()
    margin_mm: float = Field(10.0, ge=0, allow_inf_nan=False)
    as_channels: bool = False
    card: Card | None = None

    @model_validator(mode="after")
    def _named(self) -> CoarseStage:
        if self.as_channels and not self.labels:
            raise ValueError("a stage whose labels are channels names them")
        if self.card is not None and (self.card.stages or not self.card.members):
            raise ValueError("a stage with a card of its own has weights, and no stage before it")
        return self


def _each(choose: Callable[..., float], rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(choose(column) for column in zip(*rows, strict=True))


class TrainingScans(Section):
    """What the scans that trained were like, so that a scan that is far from all of them is noticed.

    Attributes:
        spacing_min_zyx, spacing_max_zyx: mm, with axes turned to LPS; of an imported model that does not turn scans,
            with axes as they were stored.
        intensity_low, intensity_high: for each channel the smallest percentile 0.5 and the largest percentile 99.5
            of a scan; empty if they are unknown.
        modalities: as the files name them, e.g. `CT`; empty where they do not.
    """

    spacing_min_zyx: Zyx
    spacing_max_zyx: Zyx
    intensity_low: tuple[FiniteFloat, ...] = ()
    intensity_high: tuple[FiniteFloat, ...] = ()
    modalities: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rising(self) -> TrainingScans:
        pairs = zip(self.spacing_min_zyx, self.spacing_max_zyx, strict=True)
        if any(not low <= high for low, high in pairs):
            raise ValueError("a smallest spacing is larger than the largest one")
        values = zip(self.intensity_low, self.intensity_high, strict=False)
        if len(self.intensity_low) != len(self.intensity_high) or any(a > b for a, b in values):
            raise ValueError(
                "intensities need a low and a high value for each channel, in this order"
            )
        return self

    @classmethod
    def joined(cls, several: Sequence[TrainingScans | None]) -> TrainingScans | None:
        """What the scans of several trainings were like, as far as it is known; None if it is of none."""
        known = [one for one in several if one is not None]
        if not known:
            return None
        measured = all(one.intensity_low for one in known)
        return cls.model_validate(
            {
                "spacing_min_zyx": _each(min, [one.spacing_min_zyx for one in known]),
                "spacing_max_zyx": _each(max, [one.spacing_max_zyx for one in known]),
                "intensity_low": _each(min, [o.intensity_low for o in known]) if measured else (),
                "intensity_high": _each(max, [o.intensity_high for o in known]) if measured else (),
                "modalities": tuple(sorted({name for one in known for name in one.modalities})),
            }
        )


class Initial(Section):
    """The model that training began with; its licence binds these weights too.

    Attributes:
        model: its name, or that of its file.
        tensors_sha256: checksum of its weights.
        licence: of its weights.
        attribution: whom to credit for them.
        remade: tensors that are not wholly its own, since labels or channels are others.
    """

    model: str
    tensors_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str = ""
    attribution: str = ""
    remade: tuple[str, ...] = ()


class Source(Section):
    """Where an imported model comes from.

    Attributes:
        importer: that read it, as `ctseg zoo import` takes it.
        name: of the folder or file that was read.
        details: of the training there, such as trainer, plans, configuration and checkpoint.
        files_sha256: checksums of the files with the weights.
        left_out: what could not be taken over.
    """

    importer: str
    name: str = ""
    details: dict[str, str] = {}
    files_sha256: dict[str, str] = {}
    left_out: tuple[str, ...] = ()


class Card(Section):
    """The model's description.

    Attributes:
        card_version: of this format; 2 where the card says what earlier versions of ctseg do not know (`source`,
            `parts`, `initial`, `training_scans`, `step_providers`, `int8`, `stages.as_channels`, `stages.card`,
            `training_data.folds`, `predict.padding`, `predict.average`, the blends `nnunet` and `monai_*`).
        name: `<architecture>.<tag>` once published.
        summary: one line.
        architecture: the network's name.
        options: of the network.
        in_channels: of the scan.
        out_channels: logits of the network.
        channels: names of the scan's channels, in order; `CT` means Hounsfield units.
        members: the weights.
        stages: models that say where to look first, from coarse to fine.
        temperature: logits are divided by it before probabilities are made.
        training_scans: what they were like; None in cards of models that were made elsewhere or earlier.
        licence: of the weights, which the training data bind.
        attribution: whom to credit.
        intended_use: what it is for.
        limits: where it fails.
        source: where an imported model comes from.
        initial: the model that training began with.
        step_providers: plugins that register preprocessing steps, by kind; those in the box are left out.
        parts: models that part the labels among them, each with its own network, preprocessing and members; the
            later one counts where two of them see something. The card itself has the labels and members of all.
        int8: ranges for `--precision int8`, where they were published.
        seed: of the run.
        steps: optimizer steps behind the weights.
        ctseg_version: that published it.
    """

    card_version: Literal[1, 2] = 1
    name: str = ""
    summary: str = ""
    architecture: str
    options: dict[str, Any] = {}
    provider: Provider
    in_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)
    channels: tuple[str, ...]
    task: TaskConfig
    preprocess: PreprocessConfig
    predict: PredictConfig
    loss: LossConfig = LossConfig()
    members: tuple[Member, ...] = ()
    stages: tuple[CoarseStage, ...] = ()
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    licence: str = ""
    attribution: str = ""
    training_data: TrainingData
    training_scans: TrainingScans | None = None
    metrics: Metrics = Metrics()
    intended_use: str = ""
    limits: str = ""
    source: Source | None = None
    initial: Initial | None = None
    step_providers: dict[str, Provider] = {}
    parts: tuple[Card, ...] = ()
    int8: Int8 | None = None
    seed: int = 0
    steps: int = 0
    ctseg_version: str = ""

    @field_validator("task")
    @classmethod
    def _labels(cls, value: TaskConfig) -> TaskConfig:
        if not value.labels:
            raise ValueError("a model needs labels")
        return value

    @model_validator(mode="after")
    def _counts(self) -> Card:
        outputs = self.task.task().out_channels
        if outputs != self.out_channels:
            raise ValueError(f"out_channels is {self.out_channels}, and the task has {outputs}")
        if len(self.channels) != self.in_channels:
            raise ValueError(
                f"in_channels is {self.in_channels}, and {len(self.channels)} channels are named"
            )
        return self

    @model_validator(mode="after")
    def _version(self) -> Card:
        fed = any(stage.as_channels or stage.card for stage in self.stages)
        new = (
            fed
            or self.training_data.folds is not None
            or any(getattr(self, key) for key in NEW_KEYS_IN_2)
        )
        new = new or any(getattr(self.metrics, key) for key in INTERVALS)
        if self.card_version == 1 and (new or needs_version_2(self.predict)):
            raise ValueError("some of its keys came later and need card_version 2 at least")
        return self

    @model_validator(mode="after")
    def _parted(self) -> Card:
        files = [member.file for part in self.parts for member in part.members]
        if self.parts and files != [member.file for member in self.members]:
            raise ValueError("the members of the parts must be those of the card, in their order")
        names = [label.name for part in self.parts for label in part.task.task().foreground]
        if self.parts and names != [label.name for label in self.task.task().foreground]:
            raise ValueError("the labels of the parts must be those of the card, in their order")
        if any(part.parts or part.stages for part in self.parts):
            raise ValueError("a part has neither parts nor stages of its own")
        return self

    @property
    def network_channels(self) -> int:
        """Channels of the network: those of the scan, and one for each label that an earlier stage shows it."""
        return self.in_channels + sum(len(s.labels) for s in self.stages if s.as_channels)

    @property
    def networks(self) -> tuple[tuple[Member, Card], ...]:
        """Every set of weights beside the card, with the card of its network: the members, and those of own stages."""
        own = [(member, self.of_file(member.file)) for member in self.members]
        return (
            *own,
            *(pair for s in self.stages if s.card is not None for pair in s.card.networks),
        )

    def of_file(self, file: str) -> Card:
        """The card of the network whose weights a file holds: that of its part, where there are parts."""
        for part in self.parts:
            if file in [member.file for member in part.members]:
                return part
        return self

    @model_serializer(mode="wrap")
    def _stored(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A card of version 1 leaves out the keys that came with version 2, which older versions of ctseg refuse."""
        data: dict[str, Any] = plain(self)
        if self.card_version == 1:
            for key in NEW_KEYS_IN_2:
                data.pop(key, None)
            data["stages"] = [
                {k: v for k, v in stage.items() if k not in ("as_channels", "card")}
                for stage in data["stages"]
            ]
            data["predict"] = {k: v for k, v in data["predict"].items() if k not in NEW_IN_2}
            data["metrics"] = {k: v for k, v in data["metrics"].items() if k not in INTERVALS}
        if self.training_data.folds is None:
            data["training_data"].pop("folds", None)
        if not self.preprocess.grid:
            data["preprocess"].pop("grid", None)
        return data

    def to_json(self) -> str:
        return json.dumps(
            self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False
        )


NEW_KEYS_IN_2 = ("source", "initial", "parts", "training_scans", "step_providers", "int8")
"""Keys that came with version 2."""
NEW_IN_2 = ("padding", "average")
"""Keys of the section `predict` that came with version 2."""


def needs_version_2(predict: PredictConfig) -> bool:
    """Whether a card of version 1 cannot say how this model predicts."""
    usual = PredictConfig()
    return predict.blend not in ("gaussian", "constant") or any(
        getattr(predict, key) != getattr(usual, key) for key in NEW_IN_2
    )


def parse_card(text: str, *, where: str) -> Card:
    """A card from JSON, checked.

    Raises:
        CorruptWeights: no JSON, or made by a newer ctseg.
        ConfigError: a field that is missing, unknown or impossible.
    """
    try:
        data = parse_json(text)
    except ValueError as error:
        raise CorruptWeights(f"The card in {where} is no valid JSON: {error}.") from error
    version = data.get("card_version") if isinstance(data, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise CorruptWeights(f"The card in {where} has no card_version: it is no ctseg card.")
    if version > CARD_VERSION:
        raise CorruptWeights(
            f"The card in {where} is of version {version}; this ctseg reads up to {CARD_VERSION}.",
            hint="Update ctseg: pip install --upgrade ctseg",
        )
    try:
        return validate(Card, data, where=f"the card in {where}")
    except ConfigError as error:
        made = data.get("ctseg_version")
        if isinstance(made, str) and made and made != __version__:
            error.hint = (
                f"{error.hint or ''}\n  The card was written by ctseg {made}; this is {__version__}. "
                "If that is newer: pip install --upgrade ctseg"
            ).strip()
        raise
