"""Small data sets of each layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctseg.volume.io import write
from ctseg.volume.volume import Volume

Save = Callable[..., Path]


@pytest.fixture
def save() -> Save:
    """Writes a volume of one value, folders included."""

    def save_(
        path: Path, value: float = 1, dtype: str = "uint8", channels: int | None = None
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (3, 4, 5) if channels is None else (channels, 3, 4, 5)
        write(Volume.from_array(np.full(shape, value, dtype)), path)
        return path

    return save_


@pytest.fixture
def save_json() -> Callable[[Path, Any], Path]:
    def save_(path: Path, content: Any) -> Path:
        path.write_text(json.dumps(content))
        return path

    return save_


@pytest.fixture
def decathlon(tmp_path: Path, save: Save) -> Path:
    """Three cases, one of them without a label, and a test image; listed out of order."""
    for name in ("b", "a", "c"):
        save(tmp_path / "imagesTr" / f"{name}.nii.gz")
    for name in ("a", "b"):
        save(tmp_path / "labelsTr" / f"{name}.nii.gz")
    save(tmp_path / "imagesTs" / "z.nii.gz")
    content = {
        "name": "Abdomen",
        "description": "two organs",
        "reference": "nobody",
        "licence": "CC0",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "left kidney", "2": "right kidney"},
        "training": [
            {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
            {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
            {"image": "./imagesTr/c.nii.gz"},
        ],
        "test": ["./imagesTs/z.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    splits = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    return tmp_path


@pytest.fixture
def nnunet(tmp_path: Path, save: Save) -> Path:
    """Two cases of two channels, and one test case."""
    for name in ("liver_02", "liver_01"):
        for channel in (0, 1):
            save(tmp_path / "imagesTr" / f"{name}_{channel:04d}.nrrd", channel)
        save(tmp_path / "labelsTr" / f"{name}.nrrd")
    for channel in (0, 1):
        save(tmp_path / "imagesTs" / f"new_{channel:04d}.nrrd")
    content = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 2,
        "file_ending": ".nrrd",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path
