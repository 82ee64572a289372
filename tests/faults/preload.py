"""What commands import, imported once before the forks."""

from __future__ import annotations

import importlib

MODULES = (
    "ctseg.cli.app", "ctseg.engine.training.run", "ctseg.engine.training.prepare", "ctseg.engine.prediction.api",
    "ctseg.engine.prediction.folder",
    "ctseg.volume.convert", "ctseg.zoo.publish", "ctseg.zoo.remove", "ctseg.zoo.verify", "ctseg.zoo.load",
    "ctseg.report.curves", "torch.utils.tensorboard",
)  # fmt: skip


def preload() -> None:
    """Import them, and have torch work in one thread: a forked process has none of its parent's."""
    import torch

    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(name)
