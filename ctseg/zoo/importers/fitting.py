"""Whether renamed weights are those of the network that a card describes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ctseg import plugins
from ctseg.errors import BadInput
from ctseg.nets.foreign.network import ForeignNetwork


def check_weights(
    network: ForeignNetwork,
    tensors: Mapping[str, torch.Tensor],
    channels: tuple[int, int],
    owner: str,
) -> None:
    """Compare names and shapes, tensor by tensor; nothing is computed.

    Args:
        channels: in and out.
        owner: of the weights, for messages.

    Raises:
        BadInput: a tensor that is missing, left over or of another shape.
    """
    spec = plugins.architecture(network.architecture)
    with torch.device("meta"):
        net = spec.build(network.config, in_channels=channels[0], out_channels=channels[1])
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
    if wrong:
        raise BadInput(
            f"The weights of {owner} do not fit the network that its settings describe, at '{wrong[0]}': "
            f"{found.get(wrong[0], 'missing')} where {expected.get(wrong[0], 'nothing')} is due.",
            hint="Do settings and weights belong together, and does the training build the network that they name?",
        )
