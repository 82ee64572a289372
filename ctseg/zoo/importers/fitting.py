"""Whether settings of another project can be understood, and renamed weights are those of the network they describe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import pydantic
import torch

from ctseg import plugins
from ctseg.errors import BadInput, CtsegError, first_line
from ctseg.nets.foreign.network import ForeignNetwork


@contextlib.contextmanager
def understood(what: str) -> Iterator[None]:
    """Say so where settings hold values of other kinds than the project itself writes.

    Raises:
        BadInput: instead of what reading such a value raises.
    """
    try:
        yield
    except CtsegError:
        raise
    except pydantic.ValidationError as error:
        raise BadInput(f"What {what} say makes no card: {error.errors()[0]['msg']}.") from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise BadInput(
            f"A value in {what} is not of the expected kind: {type(error).__name__}: {first_line(error)}.",
            hint="Are they whole, and written by the project itself?",
        ) from error


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
            f"{found.get(wrong[0], 'missing')} where {expected.get(wrong[0], 'nothing')} is expected.",
            hint="Do settings and weights belong together, and does the training build the network that they name?",
        )
