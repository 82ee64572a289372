"""An nnU-Net v2 results folder: which trained models it holds, and the checkpoints of their folds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctseg.card import TrainingScans
from ctseg.errors import BadInput, FileProblem
from ctseg.zoo.importers.archive import Files
from ctseg.zoo.importers.checkpoint import read_checkpoint, state_of

PLANS, DATASET = "plans.json", "dataset.json"
FINGERPRINT = "dataset_fingerprint.json"
CHECKPOINT = "checkpoint_final.pth"
_FOLD = re.compile(r"(?P<folder>.*?)fold_(?P<fold>\d+|all)/(?P<file>[^/]+\.pth)")


@dataclass(frozen=True)
class Fold:
    """One trained fold.

    Attributes:
        name: its number, or `all`.
        state: `network_weights`.
        configuration, trainer: as the checkpoint says.
        mirror_axes: along which prediction may be mirrored; none where training did not mirror.
        sha256: of the checkpoint.
    """

    name: str
    state: dict[str, torch.Tensor]
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]
    sha256: str


class TrainedModel:
    """One `Trainer__Plans__configuration` folder.

    Args:
        files: of what the user named.
        folder: within them, empty or with a slash at its end.
    """

    def __init__(self, files: Files, folder: str) -> None:
        self.files, self.folder = files, folder

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.rstrip("/").rsplit("/", 1)[-1] or self.files.root.resolve().name

    @property
    def configuration(self) -> str:
        """As the folder's name says; the checkpoint has the last word."""
        return self.name.rsplit("__", 1)[-1]

    @property
    def plans(self) -> dict[str, Any]:
        return self._table(PLANS)

    @property
    def dataset(self) -> dict[str, Any]:
        return self._table(DATASET)

    def _table(self, name: str) -> dict[str, Any]:
        content = self.files.json(self.folder + name)
        if not isinstance(content, dict):
            raise BadInput(f"{self.files.told(self.folder + name)} holds no table.")
        return content

    def sibling(self, configuration: str) -> TrainedModel:
        """The model of another configuration, trained by the same trainer on the same plans.

        Raises:
            BadInput: it is not there.
        """
        name = f"{self.name.removesuffix(self.configuration)}{configuration}"
        if self.folder:
            models = trained_models(self.files)
        else:
            place = self.files.root.resolve().parent / name
            models = trained_models(Files(place)) if place.is_dir() else []
        for model in models:
            if model.name == name:
                return model
        raise BadInput(
            f"{self.name} is a cascade behind {configuration}, and there is no {name} beside it.",
            hint="Put it there, or import another configuration: --configuration 3d_fullres",
        )

    def others(self, name: str) -> list[str]:
        """Files of a name at any place in the folder."""
        return [n for n in self.files.names if n.startswith(self.folder) and n.endswith(f"/{name}")]

    def folds(self, wanted: str | None, checkpoint: str) -> list[Fold]:
        """The folds asked for: numbers with commas between, or `all`; every one with that checkpoint by default.

        Raises:
            BadInput: a fold or checkpoint that is not there.
        """
        trained = self._trained()
        having = [fold for fold, files in trained.items() if checkpoint in files]
        if wanted is None:
            names = [fold for fold in having if fold != "all"] or having
        else:
            parts = re.split(r"[,\s]+", wanted.strip())
            names = [part.removeprefix("fold_") for part in parts]
        missing = [name for name in names if name not in having]
        if missing or not names:
            there = ", ".join(f"fold_{f} ({', '.join(files)})" for f, files in trained.items())
            what = f"fold_{missing[0]}/{checkpoint}" if missing else f"fold with a {checkpoint}"
            raise BadInput(
                f"There is no {what} in {self.name}.",
                hint=f"There are: {there or 'none'}. Choose with --folds and --checkpoint.",
            )
        if len(set(names)) < len(names):
            raise BadInput(f"A fold is named twice: {wanted}.")
        return [self._fold(name, checkpoint) for name in names]

    def _trained(self) -> dict[str, list[str]]:
        """The checkpoints of each fold."""
        found: dict[str, list[str]] = {}
        for match in map(_FOLD.fullmatch, self.files.names):
            if match and match["folder"] == self.folder:
                found.setdefault(match["fold"], []).append(match["file"])
        return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))

    def _fold(self, name: str, checkpoint: str) -> Fold:
        file = f"{self.folder}fold_{name}/{checkpoint}"
        told = self.files.told(file)
        with self.files.local(file) as path:
            content = read_checkpoint(path, name=told)
            sha256 = self.files.sha256(path)
        arguments = content.get("init_args")
        configuration = arguments.get("configuration") if isinstance(arguments, dict) else None
        if "network_weights" not in content or not isinstance(configuration, str):
            raise BadInput(
                f"{told} is no checkpoint of nnU-Net v2: it has no network_weights or no configuration.",
                hint=f"It has: {', '.join(map(str, content)) or 'nothing'}",
            )
        axes = content.get("inference_allowed_mirroring_axes") or ()
        return Fold(
            name,
            state_of(content["network_weights"], name=told),
            configuration,
            str(content.get("trainer_name", "")),
            tuple(int(axis) for axis in axes),
            sha256,
        )


def training_scans(model: TrainedModel) -> tuple[TrainingScans | None, list[str]]:
    """Spacings of the training scans, as nnU-Net's fingerprint lists them, and what could not be taken over.

    They are along the axes of the file, turned to RAS where the reader does so. Its intensities are those of the
    foreground only, and say nothing about whole scans.
    """
    name = model.folder + FINGERPRINT
    if name not in model.files.names:
        return None, []
    try:
        spacings = [[float(v) for v in one] for one in model.files.json(name)["spacings"]]
        axes = list(zip(*spacings, strict=True))
        return TrainingScans.model_validate(
            {"spacing_min_zyx": [*map(min, axes)], "spacing_max_zyx": [*map(max, axes)]}
        ), []
    except (FileProblem, TypeError, ValueError, KeyError, OverflowError):
        return None, [f"spacings of the training scans, which {FINGERPRINT} does not list"]


def trained_models(files: Files) -> list[TrainedModel]:
    """The trained models of a results folder: one of its own, or those below it."""
    folders = dict.fromkeys(m["folder"] for m in map(_FOLD.fullmatch, files.names) if m)
    return [
        TrainedModel(files, folder)
        for folder in folders
        if {folder + PLANS, folder + DATASET} <= set(files.names)
    ]


def find_model(path: Path, configuration: str | None) -> TrainedModel:
    """The trained model that a user names.

    Raises:
        BadInput: none there, or several that fit.
    """
    models = trained_models(Files(path))
    if not models:
        raise BadInput(
            f"{path} holds no model of nnU-Net v2: it should have {PLANS}, {DATASET} and fold_0/{CHECKPOINT}.",
            hint="Name a folder such as nnUNet_results/Dataset004_Hippocampus/nnUNetTrainer__nnUNetPlans__3d_fullres",
        )
    fitting = [m for m in models if configuration in (None, m.configuration)]
    if len(models) == 1 and not _says(models[0]):
        fitting = models  # a folder that was renamed; its checkpoint says what it is
    if not fitting:
        raise BadInput(
            f"{path} holds no configuration '{configuration}'.",
            hint=f"It holds: {', '.join(m.configuration for m in models)}",
        )
    if len(fitting) > 1:
        raise BadInput(
            f"{path} holds {len(fitting)} trained models: {', '.join(m.name for m in fitting)}.",
            hint=_choice(path, fitting),
        )
    return fitting[0]


def _says(model: TrainedModel) -> bool:
    """Whether the folder's name tells the configuration."""
    return model.name.count("__") >= 2


def _choice(path: Path, models: Sequence[TrainedModel]) -> str:
    if len({m.configuration for m in models}) == len(models):
        return (
            f"Choose one: ctseg zoo import nnunet {path} --configuration {models[-1].configuration}"
        )
    return f"Name the folder itself, e.g. {path / models[0].folder}"
