"""The kit with which plugin authors check their networks, losses, metrics, steps, readers, ... before release.

Each function raises `AssertionError` with the value found and the value expected. ctseg runs the same
functions over all of its built-in plugins.

Example:
    >>> from ctseg import plugins, testing
    >>> testing.check_architecture(plugins.architecture("unet3d"))
"""

from __future__ import annotations

from ctseg.testing.augmentations import check_augmentation
from ctseg.testing.losses import check_loss
from ctseg.testing.metrics import check_metric
from ctseg.testing.networks import check_architecture
from ctseg.testing.options import check_options
from ctseg.testing.steps import check_step
from ctseg.testing.volumes import check_format, check_reader

__all__ = [
    "check_architecture",
    "check_augmentation",
    "check_format",
    "check_loss",
    "check_metric",
    "check_options",
    "check_reader",
    "check_step",
]
