"""The built-in plugins, registered through the same hooks as any other plugin."""

from __future__ import annotations

from ctseg.builtin.architectures import ctseg_architectures
from ctseg.builtin.formats import ctseg_formats
from ctseg.builtin.importers import ctseg_importers
from ctseg.builtin.losses import ctseg_losses
from ctseg.builtin.readers import ctseg_readers
from ctseg.builtin.zoos import ctseg_zoos

__all__ = [
    "ctseg_architectures",
    "ctseg_formats",
    "ctseg_importers",
    "ctseg_losses",
    "ctseg_readers",
    "ctseg_zoos",
]
