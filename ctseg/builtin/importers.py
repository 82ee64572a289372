"""The built-in importers of models of other projects."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from ctseg.hookspecs import hookimpl
from ctseg.importer_specs import ImportedModel, ImporterSpec
from ctseg.specs import frozen


def _recognise(module: str) -> Callable[[Path], bool]:
    def recognise(path: Path) -> bool:
        file = importlib.import_module(f"ctseg.zoo.importers.{module}")
        return cast(bool, file.recognise(path))

    return recognise


def _beside(module: str) -> Callable[[Path], Sequence[Path]]:
    def beside(path: Path) -> Sequence[Path]:
        file: Any = importlib.import_module(f"ctseg.zoo.importers.{module}")
        return cast("Sequence[Path]", file.beside(path))

    return beside


def _read(module: str) -> Callable[..., ImportedModel]:
    def read(paths: Sequence[Path], **options: str) -> ImportedModel:
        file: Any = importlib.import_module(f"ctseg.zoo.importers.{module}")
        return cast(ImportedModel, file.read(paths, **options))

    return read


@hookimpl
def ctseg_importers() -> Sequence[ImporterSpec]:
    """Results folders of nnU-Net v2, checkpoints of pytorch-3dunet."""
    return [
        ImporterSpec(
            name="nnunet",
            recognise=_recognise("nnunet"),
            read=_read("nnunet"),
            summary="nnU-Net v2: a results folder or an exported zip, all folds as one ensemble",
            paths=("RESULTS_FOLDER",),
            options=frozen(
                {
                    "configuration": "e.g. 3d_fullres, where the folder holds several",
                    "folds": "numbers separated by commas, or all; every trained fold by default",
                    "checkpoint": "checkpoint_final.pth by default",
                }
            ),
            beside=_beside("nnunet"),
        ),
        ImporterSpec(
            name="pytorch3dunet",
            recognise=_recognise("pytorch3dunet"),
            read=_read("pytorch3dunet"),
            summary="pytorch-3dunet: a checkpoint and its configuration",
            paths=("CHECKPOINT", "CONFIG"),
            options=frozen(
                {
                    "labels": "names of the predicted labels, separated by commas; the background first for softmax",
                    "channels": "names of the scan's channels, separated by commas",
                }
            ),
        ),
    ]
