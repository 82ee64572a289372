"""What a foreign network is here, and how its tensors are renamed."""

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

WRAPPERS = ("_orig_mod.", "module.")  # left in names by torch.compile and DataParallel
Rule = tuple[str, Callable[[re.Match[str]], str | None]]
"""A pattern for a whole name, and what makes ours of it; None drops the tensor."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of another project, described as one of ours.

    Attributes:
        architecture: the name of ours.
        config: its options.
        in_channels, out_channels: as the settings say; None where they do not.
        activation: what turns logits into predictions there; None where the settings do not say.
        axes: for each of our axes z, y, x the foreign axis that lies along it.
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
    """Say which key is missing in settings of another project.

    Raises:
        BadInput: instead of KeyError.
    """
    try:
        yield
    except KeyError as error:
        raise BadInput(
            f"There is no '{error.args[0]}' in {settings}.",
            hint="Is the file whole, and written by the project itself?",
        ) from error


def rename(
    state: Mapping[str, torch.Tensor], network: ForeignNetwork, rules: list[Rule], *, owner: str
) -> dict[str, torch.Tensor]:
    """The tensors of a foreign state dict under our names, kernels turned to our axes.

    Args:
        rules: tried in turn on each name; the first that fits the whole of it counts.
        owner: the other project, for messages.

    Raises:
        BadInput: a tensor that no rule fits.
    """
    named: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        bare = key
        for wrapper in WRAPPERS:
            bare = bare.removeprefix(wrapper)
        name = _first(rules, bare, key, owner)
        if name is not None:
            named[f"net.{name}" if network.slicewise else name] = _turned(tensor, network)
    return named


def _first(rules: list[Rule], bare: str, key: str, owner: str) -> str | None:
    for pattern, target in rules:
        match = re.fullmatch(pattern, bare)
        if match:
            return target(match)
    raise BadInput(
        f"The weights hold '{key}', which is no tensor of a network of {owner} that is known here.",
        hint="Weights of its present version are read; check that settings and weights belong together.",
    )


def _turned(tensor: torch.Tensor, network: ForeignNetwork) -> torch.Tensor:
    """A convolution's kernel along our axes; anything else as it is."""
    if network.slicewise and tensor.ndim == 4:
        tensor = tensor.unsqueeze(2)
    if tensor.ndim == 5 and network.axes != (0, 1, 2):
        z, y, x = network.axes
        return tensor.permute(0, 1, 2 + z, 2 + y, 2 + x).contiguous()
    return tensor
