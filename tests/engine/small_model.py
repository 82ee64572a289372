"""A network so small that whole folders are predicted in a second, and scans for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import ctseg
from ctseg.card import Card, Provider, TrainingData
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.engine.model.runtime import choose
from ctseg.engine.model.weights import save_weights
from ctseg.engine.prediction.api import Segmenter

LABELS = [
    {"name": "background", "values": [0], "value": 0},
    {"name": "bright", "values": [1], "value": 1},
    {"name": "dark", "values": [2], "value": 2},
]
STEPS = (
    {"kind": "orient"},
    {"kind": "clip", "ranges": [[-200, 200]]},
    {"kind": "rescale", "low": -200, "high": 200},
)


def card_of(network: torch.nn.Module | None = None, **changes: Any) -> Card:
    given: dict[str, Any] = {
        "name": "small.v1", "architecture": "unet3d", "options": {"features": [4, 4]},
        "provider": Provider(package="ctseg"), "in_channels": 1, "out_channels": 3, "channels": ("CT",),
        "task": TaskConfig.model_validate({"kind": "classes", "labels": LABELS}),
        "preprocess": PreprocessConfig(steps=()), "predict": PredictConfig(tile_zyx=(8, 8, 8)),
        "training_data": TrainingData(name="noise"),
    }  # fmt: skip
    return Card(**{**given, **changes})


def network_of(channels: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    return ctseg.create_model(
        "unet3d", in_channels=channels, out_channels=3, features=(4, 4)
    ).eval()


def small_model(channels: int = 1, **changes: Any) -> Segmenter:
    names = tuple("CT" if n == 0 else f"c{n}" for n in range(channels))
    card = card_of(in_channels=channels, channels=names, **changes)
    return Segmenter(card, [network_of(channels)], choose("cpu", "fp32"))


def write_model(path: Path, channels: int = 1) -> Path:
    names = tuple("CT" if n == 0 else f"c{n}" for n in range(channels))
    network = network_of(channels)
    save_weights(path, network.state_dict(), card_of(in_channels=channels, channels=names))
    return path


def scan(seed: int = 0, shape: tuple[int, ...] = (12, 14, 11), **geometry: Any) -> ctseg.Volume:
    array = np.random.default_rng(seed).normal(0, 100, shape).astype(np.int16)
    return ctseg.Volume.from_array(array, **{"spacing_xyz": (0.9, 1.3, 2.1), **geometry})


def scans(folder: Path, count: int, suffix: str = ".nii.gz") -> list[Path]:
    paths = [folder / f"scan{number}{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        ctseg.write(scan(number), path)
    return paths
