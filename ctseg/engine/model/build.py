"""The network that a card describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ctseg import plugins
from ctseg.card import Card
from ctseg.errors import UnknownName
from ctseg.specs import Constraints


def build(card: Card, options: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """The network that a card describes, with fresh weights.

    Args:
        options: of the network, on top of the card's; those that matter only where training starts.

    Raises:
        UnknownName: the architecture is not installed; the message names the plugin that provides it.
    """
    try:
        spec = plugins.architecture(card.architecture)
    except UnknownName as error:
        error.hint = (
            f"The model needs the plugin package {card.provider.package} {card.provider.version}. "
            f"Install it: pip install {card.provider.package}\n  {error.hint}"
        )
        raise
    config = plugins.make_config(spec, {**card.options, **(options or {})})
    return spec.build(config, in_channels=card.network_channels, out_channels=card.out_channels)


def constraints_of(card: Card) -> Constraints:
    """What the card's network demands of tiles."""
    spec = plugins.architecture(card.architecture)
    return spec.constraints_for(plugins.make_config(spec, card.options))
