"""Networks and losses by name, whoever provides them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ctseg import plugins
from ctseg.config.checking import SHOWN
from ctseg.errors import CtsegError, PluginError
from ctseg.plugin_guard import of_the_machine, text_of


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
        PluginError: the plugin that provides it fails to build it.

    Example:
        >>> net = create_model("unet3d", in_channels=1, out_channels=3)
    """
    entry = plugins.registry().get("architecture", name)
    config = plugins.make_config(entry.spec, options)
    return build_network(entry, config, in_channels=in_channels, out_channels=out_channels)


def build_network(
    entry: plugins.Registered, config: Any, *, in_channels: int, out_channels: int
) -> torch.nn.Module:
    """The network of an architecture with these options.

    Raises:
        CtsegError: options that do not fit.
        PluginError: it cannot be built, or what is built is no network; the message names the owner.
    """
    what = f"The network '{entry.spec.name}' of {entry.plugin.owner}"
    try:
        network = entry.spec.build(config, in_channels=in_channels, out_channels=out_channels)
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, CtsegError) or of_the_machine(error):
            raise
        raise PluginError(
            f"{what} cannot be built with {repr(config)[:SHOWN]}: {text_of(error)}."
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise PluginError(
            f"{what} is no network: `build` returned {type(network).__name__}, not a torch.nn.Module."
        )
    return network


def create_loss(name: str, **options: Any) -> Callable[..., torch.Tensor]:
    """A loss: `loss(logits, target, *, weight=None, mask=None) -> scalar tensor`.

    Raises:
        UnknownName: no such loss; the message has the nearest name.
        ConfigError: an option that does not exist or does not fit.
        PluginError: the plugin that provides it fails to build it.
    """
    entry = plugins.registry().get("loss", name)
    loss: Callable[..., torch.Tensor] = entry.spec.build(plugins.make_config(entry.spec, options))
    if not callable(loss):
        raise PluginError(
            f"The loss '{name}' of {entry.plugin.owner} is no function: `build` returned {type(loss).__name__}."
        )
    return loss


def list_architectures(pattern: str = "*") -> list[str]:
    """The names of architectures that match a shell pattern, e.g. `*unet*`."""
    return plugins.names("architecture", pattern)


def list_losses(pattern: str = "*") -> list[str]:
    """The names of losses that match a shell pattern."""
    return plugins.names("loss", pattern)
