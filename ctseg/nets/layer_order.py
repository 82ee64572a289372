"""The layers of a convolution block and their order. Free of torch.

Strings such as `gcr` are those of pytorch-3dunet: one letter a layer, first layer first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Literal

from ctseg.errors import ConfigError

Norm = Literal["instance", "batch", "group", "none"]
Activation = Literal["leaky_relu", "relu", "elu", "gelu", "silu"]
Dropped = Literal["channels", "voxels"]
Role = Literal["conv", "dropout", "norm", "activation"]

NORM_LETTERS: dict[str, Norm] = {"g": "group", "b": "batch", "i": "instance"}
ACTIVATION_LETTERS: dict[str, Activation] = {"r": "relu", "l": "leaky_relu", "e": "elu"}
DROPOUT_LETTERS: dict[str, Dropped] = {"d": "voxels", "D": "channels"}
ROLES: dict[str, Role] = {
    "c": "conv",
    **dict.fromkeys(NORM_LETTERS, "norm"),
    **dict.fromkeys(ACTIVATION_LETTERS, "activation"),
    **dict.fromkeys(DROPOUT_LETTERS, "dropout"),
}
LETTERS = (
    "c convolution, g group norm, b batch norm, i instance norm, r ReLU, l leaky ReLU, e ELU, "
    "d dropout of voxels, D dropout of channels"
)
STANDARD: tuple[Role, ...] = ("conv", "dropout", "norm", "activation")


@dataclass(frozen=True)
class LayerOrder:
    """The layers of a block.

    Attributes:
        roles: the role of each layer, first layer first; each role at most once, `conv` always.
        norm: kind of normalisation; `none` without such a layer.
        activation: its kind.
        dropped: what a dropout layer drops (voxels or channels), if there is one.
    """

    roles: tuple[Role, ...]
    norm: Norm
    activation: Activation
    dropped: Dropped = "channels"

    @property
    def norm_first(self) -> bool:
        """Whether normalisation comes before the convolution, and so normalises its input."""
        roles = self.roles
        return "norm" in roles and roles.index("norm") < roles.index("conv")


@cache
def parse_layer_order(text: str) -> LayerOrder:
    """Read a string such as `gcr`.

    Raises:
        ConfigError: an unknown letter, a kind of layer named twice, no convolution or activation, or an
            activation in front of all other layers.
    """
    unknown = [letter for letter in text if letter not in ROLES]
    if unknown:
        raise ConfigError(
            f"layer_order is '{text}'; '{unknown[0]}' stands for no layer.",
            hint=f"Letters: {LETTERS}",
        )
    roles = tuple(ROLES[letter] for letter in text)
    twice = [role for role, count in Counter(roles).items() if count > 1]
    missing = [role for role in ("conv", "activation") if role not in roles]
    if twice or missing:
        problem = f"more than one layer of {twice[0]}" if twice else f"no layer of {missing[0]}"
        raise ConfigError(
            f"layer_order '{text}' names {problem}.",
            hint="Use one convolution (c), one activation (r, l or e) and at most one norm (g, b or i) and "
            "dropout (d or D), e.g. gcr",
        )
    before = roles[: roles.index("activation")]
    if not {"conv", "norm"} & set(before):
        raise ConfigError(
            f"layer_order '{text}' has its activation before convolution and normalisation.",
            hint="Put it after one of them, e.g. gcr or grc",
        )
    return LayerOrder(
        roles=roles,
        norm=next((NORM_LETTERS[x] for x in text if x in NORM_LETTERS), "none"),
        activation=next(ACTIVATION_LETTERS[x] for x in text if x in ACTIVATION_LETTERS),
        dropped=next((DROPOUT_LETTERS[x] for x in text if x in DROPOUT_LETTERS), "channels"),
    )
