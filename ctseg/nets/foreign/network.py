"""Description of a network of another project, and the renaming of its tensors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from ctseg.errors import BadInput
from ctseg.nets.config import ResidualUNet3DConfig, UNet3DConfig
from ctseg.specs import Zyx

if TYPE_CHECKING:
    import torch

WRAPPERS = ("_orig_mod.", "module.")  # prefixes that torch.compile and DataParallel add
Rule = tuple[str, Callable[[re.Match[str]], str | None]]
"""A pattern for a whole name, and a function that returns ctseg's name; None drops the tensor."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of another project, described as one of ctseg's.

    Attributes:
        architecture: name of ctseg's architecture.
        config: its options.
        in_channels, out_channels: None where the settings do not give them.
        activation: what turns logits into predictions in that project; None where the settings do not give it.
        axes: for each of ctseg's axes z, y, x the foreign axis that corresponds to it.
    """

    architecture: str
    config: UNet3DConfig | ResidualUNet3DConfig
    in_channels: int | None = None
    out_channels: int | None = None
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    axes: Zyx = (0, 1, 2)

    @property
    def options(self) -> dict[str, Any]:
        """The options as a run file, a card or `ctseg.create_model` takes them."""
        return asdict(self.config)

    @property
    def slicewise(self) -> bool:
        """Whether the network works slice by slice."""
        return self.architecture in ("unet2d", "residual_unet2d")


@contextlib.contextmanager
def keys_of(settings: str) -> Iterator[None]:
    """Turn a KeyError into an error that names the key missing from another project's settings.

    Raises:
        BadInput: instead of KeyError.
    """
    try:
        yield
    except KeyError as error:
        raise BadInput(
            f"There is no '{error.args[0]}' in {settings}.",
            hint="Check that the file is complete and that the project itself wrote it.",
        ) from error


def rename(
    state: Mapping[str, torch.Tensor], network: ForeignNetwork, rules: list[Rule], *, owner: str
) -> dict[str, torch.Tensor]:
    """The tensors of a foreign state dict under ctseg's names, kernels with their axes in ctseg's order.

    Args:
        rules: tried in turn on each name; the first that matches the whole name applies.
        owner: the other project, for messages.

    Raises:
        BadInput: no rule matches a tensor.
    """
    named: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        stripped = key
        for wrapper in WRAPPERS:
            stripped = stripped.removeprefix(wrapper)
        name = _first(rules, stripped, key, owner)
        if name is not None:
            named[f"net.{name}" if network.slicewise else name] = _turned(tensor, network)
    return named


def _first(rules: list[Rule], stripped: str, key: str, owner: str) -> str | None:
    for pattern, target in rules:
        match = re.fullmatch(pattern, stripped)
        if match:
            return target(match)
    raise BadInput(
        f"The weights hold '{key}', which is not a tensor of any network of {owner} known to ctseg.",
        hint="ctseg reads weights of the project's current version; check that settings and weights belong together.",
    )


def _turned(tensor: torch.Tensor, network: ForeignNetwork) -> torch.Tensor:
    """A convolution's kernel with its axes in ctseg's order; other tensors unchanged."""
    if network.slicewise and tensor.ndim == 4:
        tensor = tensor.unsqueeze(2)
    if tensor.ndim == 5 and network.axes != (0, 1, 2):
        z, y, x = network.axes
        return tensor.permute(0, 1, 2 + z, 2 + y, 2 + x).contiguous()
    return tensor
