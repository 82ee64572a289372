"""A run as training leaves it: tiny network, random weights, a data set of small scans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ctseg.card import Card, Provider, TrainingData
from ctseg.config import (
    DataConfig,
    ModelConfig,
    PredictConfig,
    PreprocessConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
    dump_config,
)
from ctseg.engine.model.create import create_model
from ctseg.engine.model.weights import save_weights
from ctseg.task import classes_task
from ctseg.volume.io import write
from ctseg.volume.volume import Volume

OPTIONS = {"features": [2, 4]}
TASK = TaskConfig.of(classes_task({"ball": 1, "shell": 2}))
MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing reads or writes the real zoo and sources of whoever runs the tests."""
    monkeypatch.setenv("CTSEG_ZOO", str(tmp_path / "own"))
    monkeypatch.setenv("CTSEG_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("ctseg.zoo.folders.shipped_zoos", list)
    return tmp_path / "own"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans of a ball in its shell, in Decathlon layout, with two folds."""
    folder = tmp_path_factory.mktemp("data") / "Balls"
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"))
    names = [f"ball_{i}" for i in range(4)]
    for index, name in enumerate(names):
        centre = np.array([5.0 + index % 2, 6, 5]).reshape(3, 1, 1, 1)
        radius = np.sqrt(((grid - centre) ** 2).sum(0))
        label = (radius < 5).astype(np.uint8) * 2
        label[radius < 3] = 1
        image = (label * 100 + rng.normal(0, 20, label.shape)).astype(np.float32)
        geometry = {"spacing_xyz": (0.8, 0.9, 2.0), "origin_xyz": (3.0, -4.0, 5.0)}
        write(Volume.from_array(image, **geometry), folder / "imagesTr" / f"{name}.nii.gz")
        write(Volume.from_array(label, **geometry), folder / "labelsTr" / f"{name}.nii.gz")
    about = {
        "name": "Balls",
        "modality": {"0": "CT"},
        "licence": "CC BY 4.0",
        "reference": "Made for tests.",
        "labels": {"0": "background", "1": "ball", "2": "shell"},
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    splits = [{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}]
    (folder / "splits.json").write_text(json.dumps(splits))
    return folder


@pytest.fixture
def make_run(tmp_path: Path, dataset: Path) -> MakeRun:
    """Make a run folder; keywords change the card."""

    def make(name: str = "run", *, seed: int = 0, fold: int = 0, **card: object) -> Path:
        torch.manual_seed(seed)
        net = create_model("unet3d", in_channels=1, out_channels=3, features=(2, 4))
        config = RunConfig(
            task=TASK,
            data=DataConfig(path=str(dataset), fold=fold),
            model=ModelConfig(options=OPTIONS),
            train=TrainConfig(device="cpu", precision="fp32"),
        )
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(dump_config(config))
        fields = {
            "architecture": "unet3d", "options": OPTIONS, "provider": Provider(package="ctseg"),
            "in_channels": 1, "out_channels": 3, "channels": ("CT",), "task": TASK,
            "preprocess": PreprocessConfig(), "predict": PredictConfig(tile_zyx=(12, 12, 12)),
            "training_data": TrainingData(name="Balls", licence="CC BY 4.0", cases=2, fold=fold),
            "seed": seed, "steps": 1,
        }  # fmt: skip
        save_weights(folder / "best.safetensors", net.state_dict(), Card(**(fields | card)))
        return folder

    return make
