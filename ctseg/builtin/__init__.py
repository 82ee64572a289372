"""The built-in plugins, registered through the same hooks as any other plugin."""

from __future__ import annotations

from ctseg.builtin.architectures import ctseg_architectures
from ctseg.builtin.augmentations import ctseg_augmentations
from ctseg.builtin.commands import ctseg_commands
from ctseg.builtin.formats import ctseg_formats
from ctseg.builtin.importers import ctseg_importers
from ctseg.builtin.losses import ctseg_losses
from ctseg.builtin.metrics import ctseg_metrics
from ctseg.builtin.readers import ctseg_readers
from ctseg.builtin.steps import ctseg_steps
from ctseg.builtin.trackers import ctseg_trackers
from ctseg.builtin.zoos import ctseg_zoos

__all__ = [
    "ctseg_architectures",
    "ctseg_augmentations",
    "ctseg_commands",
    "ctseg_formats",
    "ctseg_importers",
    "ctseg_losses",
    "ctseg_metrics",
    "ctseg_readers",
    "ctseg_steps",
    "ctseg_trackers",
    "ctseg_zoos",
]
