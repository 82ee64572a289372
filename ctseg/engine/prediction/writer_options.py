"""Options with which the files of a prediction are written, as far as their formats have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctseg.card import Card
from ctseg.specs import frozen
from ctseg.volume.io import writer_format

DATASETS = {
    "map": "/label", "values": "/raw", "probabilities": "/probabilities", "confidence": "/confidence",
    "uncertainty": "/uncertainty", "instances": "/instances",
}  # fmt: skip


def writer_options(card: Card, path: Path) -> dict[str, str]:
    """Writer options that describe the model, as far as the file's format has them."""
    options = {"algorithm": card.name or card.architecture}
    known = writer_format(path).writer_options
    return {name: value for name, value in options.items() if name in known}


def dataset_option(path: Path, kind: str) -> Mapping[str, Any]:
    """The writer option for a result's data set, for formats that hold several."""
    known = writer_format(path).writer_options
    return frozen({"dataset": DATASETS[kind]} if "dataset" in known else {})
