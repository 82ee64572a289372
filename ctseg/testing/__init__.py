"""The kit with which plugin authors check a network, loss, reader or format before release.

Each function raises `AssertionError` with the value found and the value expected. ctseg runs the same
functions over all of its built-in plugins.

Example:
    >>> from ctseg import plugins, testing
    >>> testing.check_architecture(plugins.architecture("unet3d"))
"""

from __future__ import annotations

from ctseg.testing.losses import check_loss
from ctseg.testing.networks import check_architecture
from ctseg.testing.options import check_options
from ctseg.testing.volumes import check_format, check_reader

__all__ = ["check_architecture", "check_format", "check_loss", "check_options", "check_reader"]
