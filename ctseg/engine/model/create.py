"""Networks and losses by name, whoever provides them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ctseg import plugins


def create_model(
    name: str, *, in_channels: int, out_channels: int, **options: Any
) -> torch.nn.Module:
    """A network with fresh weights.

    Args:
        name: a registered architecture, e.g. `unet3d`.
        in_channels, out_channels: image channels and logits.
        options: the network's options (see: ctseg architectures show NAME).

    Returns:
        A module from [B, in_channels, Z, Y, X] to [B, out_channels, Z, Y, X].

    Raises:
        UnknownName: no such architecture; the message has the nearest name.
        ConfigError: an option that does not exist or does not fit.

    Example:
        >>> net = create_model("unet3d", in_channels=1, out_channels=3)
    """
    spec = plugins.architecture(name)
    config = plugins.make_config(spec, options)
    return spec.build(config, in_channels=in_channels, out_channels=out_channels)


def create_loss(name: str, **options: Any) -> Callable[..., torch.Tensor]:
    """A loss: `loss(logits, target, *, weight=None, mask=None) -> scalar tensor`.

    Raises:
        UnknownName: no such loss; the message has the nearest name.
        ConfigError: an option that does not exist or does not fit.
    """
    spec = plugins.loss(name)
    return spec.build(plugins.make_config(spec, options))


def list_architectures(pattern: str = "*") -> list[str]:
    """The names of architectures that match a shell pattern, e.g. `*unet*`."""
    return plugins.names("architecture", pattern)


def list_losses(pattern: str = "*") -> list[str]:
    """The names of losses that match a shell pattern."""
    return plugins.names("loss", pattern)
