"""The kit with which a plugin author checks a network, loss, reader or format before anybody uses it.

Each function raises `AssertionError` with what was found and what is due. ctseg runs the same
functions over everything that ships in the box.

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
