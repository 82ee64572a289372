"""Options that U-Nets share, and their checks. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal

from ctseg.errors import ConfigError
from ctseg.nets.layer_order import STANDARD, Activation, LayerOrder, Norm, parse_layer_order
from ctseg.specs import Zyx

Downsampling = Literal["strided", "max", "avg"]
Upsampling = Literal["transposed", "transposed_overlap", "trilinear", "nearest"]
Skip = Literal["concat", "concat_skip_first", "sum"]

CHOICES: dict[str, tuple[str, ...]] = {
    "norm": ("instance", "batch", "group", "none"),
    "activation": ("leaky_relu", "relu", "elu", "gelu", "silu"),
    "downsampling": ("strided", "max", "avg"),
    "upsampling": ("transposed", "transposed_overlap", "trilinear", "nearest"),
    "skip": ("concat", "concat_skip_first", "sum"),
    "widen": ("first", "gradual"),
    "block": ("basic", "projected"),
    "decoder_block": ("conv", "residual"),
    "excitation": ("channel", "spatial", "concurrent"),
    "excitation_place": ("branch", "output"),
    "size": ("small", "base", "medium", "large"),
}


MOST_LEVELS, MOST_IN_LEVEL = 32, 100
"""Of any network that fits a machine: a card that asks for thousands is refused before they are built."""
MOST_WIDTH, MOST_KERNEL = 10_000, 100
"""Widest level and largest kernel or stride; the sizes of all tensors then stay countable."""


@dataclass(frozen=True, kw_only=True)
class LevelOptions:
    """Widths, kernels and strides of the levels of any encoder and decoder."""

    features: tuple[int, ...] = field(
        default=(32, 64, 128, 256),
        metadata={
            "help": "width of each level, from full resolution down; its length is the depth"
        },
    )
    kernels_zyx: tuple[Zyx, ...] = field(
        default=(),
        metadata={"help": "odd kernel size of each level; empty: 3 everywhere"},
    )
    strides_zyx: tuple[Zyx, ...] = field(
        default=(),
        metadata={"help": "downsampling from each level to the next; empty: 2 everywhere"},
    )

    def __post_init__(self) -> None:
        if not 2 <= len(self.features) <= MOST_LEVELS or not _in(self.features, MOST_WIDTH):
            self._refuse(
                "features",
                f"a U-Net needs two to {MOST_LEVELS} widths from 1 to {MOST_WIDTH}",
                hint="For example: features = [32, 64, 128, 256]",
            )
        for name, choices in CHOICES.items():
            if getattr(self, name, choices[0]) not in choices:
                raise ConfigError(
                    f"{type(self).__name__}.{name} is '{getattr(self, name)}'.",
                    hint=f"Use one of: {', '.join(choices)}",
                )
        self._check_axes("kernels_zyx", len(self.features))
        self._check_axes("strides_zyx", len(self.features) - 1)
        if any(k % 2 == 0 for kernel in self.kernels_zyx for k in kernel):
            self._refuse(
                "kernels_zyx", "even sizes have no centre", hint="Use odd sizes, e.g. [1, 3, 3]"
            )

    def _refuse(self, name: str, why: str, *, hint: str) -> None:
        raise ConfigError(
            f"{type(self).__name__}.{name} is {getattr(self, name)!r}; {why}.", hint=hint
        )

    def _check_number(self, name: str, fits: bool, due: str) -> None:
        if not fits:
            raise ConfigError(
                f"{type(self).__name__}.{name} is {getattr(self, name)}.", hint=f"Use {due}"
            )

    def _check_axes(self, name: str, count: int) -> None:
        value: Sequence[Zyx] = getattr(self, name)
        if value and (
            len(value) != count
            or any(len(item) != 3 or not _in(item, MOST_KERNEL) for item in value)
        ):
            self._refuse(
                name,
                f"it takes {count} triples (z, y, x) of numbers from 1 to {MOST_KERNEL}, as `features` sets the depth",
                hint=f"For example: {name} = [{', '.join(['[1, 3, 3]'] * count)}]",
            )

    def _check_counts(self, name: str, count: int) -> None:
        value: Sequence[int] = getattr(self, name)
        if value and (len(value) != count or min(value) < 1):
            self._refuse(
                name,
                f"but there are {count} levels",
                hint=f"Give one positive number for each, e.g. {name} = {[1] * count}, or none",
            )
        self._check_number(name, max(value, default=1) <= MOST_IN_LEVEL, f"up to {MOST_IN_LEVEL}")

    @property
    def kernels(self) -> tuple[Zyx, ...]:
        """The kernel of each level."""
        return self.kernels_zyx or tuple(repeat((3, 3, 3), len(self.features)))

    @property
    def strides(self) -> tuple[Zyx, ...]:
        """The downsampling between each level and the next."""
        return self.strides_zyx or tuple(repeat((2, 2, 2), len(self.features) - 1))


@dataclass(frozen=True, kw_only=True)
class UNetOptions(LevelOptions):
    """Options that all U-Nets of convolution blocks share."""

    norm: Norm = field(
        default="instance", metadata={"help": "normalisation: instance, batch, group or none"}
    )
    norm_groups: int = field(
        default=8,
        metadata={
            "help": "groups of group norm; one where there are fewer channels, fewer where they do not divide"
        },
    )
    norm_eps: float = field(
        default=1e-5, metadata={"help": "epsilon added to the variance in normalisation"}
    )
    activation: Activation = field(
        default="leaky_relu",
        metadata={"help": "leaky_relu, relu, elu, gelu or silu"},
    )
    leaky_slope: float = field(
        default=0.01, metadata={"help": "slope of the leaky ReLU below zero, 0 to 1"}
    )
    layer_order: str = field(
        default="",
        metadata={
            "help": "layers of a convolution block, a letter each, in place of norm and activation, e.g. gcr: c "
            "convolution; g, b, i group, batch, instance norm; r, l, e ReLU, leaky ReLU, ELU; d, D dropout of "
            "voxels, channels. Empty: convolution, dropout, norm, activation"
        },
    )
    dropout: float = field(
        default=0.0,
        metadata={
            "help": "probability with which dropout drops a whole channel (d in layer_order: a voxel), 0 to 1"
        },
    )
    deep_supervision: bool = field(
        default=False, metadata={"help": "in training, predict at every level of the decoder"}
    )
    downsampling: Downsampling = field(
        default="strided",
        metadata={
            "help": "strided (the first convolution of a level), max or avg (pooling before it)"
        },
    )
    upsampling: Upsampling = field(
        default="transposed",
        metadata={
            "help": "transposed (learnt, kernel = stride), transposed_overlap (learnt, kernel 3, then nearest "
            "neighbour to size), trilinear or nearest (with a learnt 1x1x1 projection)"
        },
    )
    upsampling_keeps_width: bool = field(
        default=False,
        metadata={
            "help": "whether upsampled features stay as wide as the level below (interpolation then has no weights)"
        },
    )
    skip: Skip = field(
        default="concat",
        metadata={
            "help": "how encoder features join: concat (upsampled ones first), concat_skip_first or sum"
        },
    )
    bias: bool = field(default=True, metadata={"help": "whether convolutions have a bias"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("dropout", 0 <= self.dropout < 1, "a probability from 0 to below 1")
        self._check_number("leaky_slope", 0 <= self.leaky_slope <= 1, "a slope from 0 to 1")
        self._check_number("norm_groups", self.norm_groups >= 1, "1 or more")
        self._check_number("norm_eps", self.norm_eps > 0, "a small positive number such as 1e-5")
        self._check_layer_order()
        if self.skip == "sum" and self.upsampling_keeps_width and len(set(self.features)) > 1:
            self._refuse(
                "skip",
                "with upsampling_keeps_width the two have different widths",
                hint='Use skip = "concat", or upsampling_keeps_width = false',
            )

    def _check_layer_order(self) -> None:
        if not self.layer_order:
            return
        layers = parse_layer_order(self.layer_order)
        for name in ("norm", "activation"):
            value = getattr(self, name)
            if value not in (CHOICES[name][0], getattr(layers, name)):
                self._refuse(
                    "layer_order",
                    f'it also sets {name}, and {name} = "{value}" contradicts it',
                    hint=f"Leave {name} out, or leave layer_order empty",
                )
        if self.dropout and "dropout" not in layers.roles:
            self._refuse(
                "layer_order",
                f"it has no dropout, but dropout is {self.dropout}",
                hint=f"Add a letter for it, e.g. {self.layer_order}D, or set dropout to 0",
            )

    @property
    def layers(self) -> LayerOrder:
        """The layers of a convolution block."""
        if self.layer_order:
            return parse_layer_order(self.layer_order)
        return LayerOrder(STANDARD, self.norm, self.activation)


def _in(values: Sequence[int], most: int) -> bool:
    return all(1 <= value <= most for value in values)
