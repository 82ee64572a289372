"""The options of the U-Nets, their demands on patches, and how a plan becomes options. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal

from ctseg.errors import ConfigError
from ctseg.specs import Constraints, NetworkPlan, Zyx

Norm = Literal["instance", "batch", "group", "none"]
Activation = Literal["leaky_relu", "relu", "elu", "gelu", "silu"]
Upsampling = Literal["transposed", "trilinear"]
Skip = Literal["concat", "sum"]

CHOICES: dict[str, tuple[str, ...]] = {
    "norm": ("instance", "batch", "group", "none"),
    "activation": ("leaky_relu", "relu", "elu", "gelu", "silu"),
    "upsampling": ("transposed", "trilinear"),
    "skip": ("concat", "sum"),
}
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # nnU-Net's residual encoder; levels below take the last number
BASE_FEATURES, MAX_FEATURES, MAX_LEVELS = 32, 320, 6


@dataclass(frozen=True, kw_only=True)
class _Common:
    """What both U-Nets have in common."""

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
    norm: Norm = field(
        default="instance", metadata={"help": "normalisation: instance, batch, group or none"}
    )
    norm_groups: int = field(
        default=8, metadata={"help": "groups of the norm 'group' (fewer where they do not divide)"}
    )
    activation: Activation = field(
        default="leaky_relu",
        metadata={"help": "leaky_relu (slope 0.01), relu, elu, gelu or silu"},
    )
    dropout: float = field(
        default=0.0, metadata={"help": "probability with which a whole channel is dropped, 0 to 1"}
    )
    deep_supervision: bool = field(
        default=False, metadata={"help": "in training, predict at every level of the decoder"}
    )
    upsampling: Upsampling = field(
        default="transposed",
        metadata={"help": "transposed (learnt) or trilinear (with a learnt 1x1x1 projection)"},
    )
    skip: Skip = field(
        default="concat", metadata={"help": "how encoder features join: concat or sum"}
    )
    bias: bool = field(default=True, metadata={"help": "whether convolutions have a bias"})

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if len(self.features) < 2 or min(self.features) < 1:
            raise ConfigError(
                f"{owner}.features is {self.features}; at least two positive widths are needed.",
                hint="For example: features = [32, 64, 128, 256]",
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{owner}.{name} is '{getattr(self, name)}'.",
                    hint=f"Use one of: {', '.join(choices)}",
                )
        _check_axes(owner, "kernels_zyx", self.kernels_zyx, len(self.features))
        _check_axes(owner, "strides_zyx", self.strides_zyx, len(self.features) - 1)
        if any(k % 2 == 0 for kernel in self.kernels_zyx for k in kernel):
            raise ConfigError(
                f"{owner}.kernels_zyx is {self.kernels_zyx}; even sizes have no centre.",
                hint="Use odd sizes, e.g. [1, 3, 3]",
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"{owner}.dropout is {self.dropout}.", hint="Use a probability from 0 to below 1"
            )
        if self.norm_groups < 1:
            raise ConfigError(f"{owner}.norm_groups is {self.norm_groups}.", hint="Use 1 or more")

    @property
    def kernels(self) -> tuple[Zyx, ...]:
        """The kernel of each level."""
        return self.kernels_zyx or tuple(repeat((3, 3, 3), len(self.features)))

    @property
    def strides(self) -> tuple[Zyx, ...]:
        """The downsampling between each level and the next."""
        return self.strides_zyx or tuple(repeat((2, 2, 2), len(self.features) - 1))


@dataclass(frozen=True, kw_only=True)
class UNet3DConfig(_Common):
    """Options of `unet3d`."""

    convs_per_level: int = field(
        default=2, metadata={"help": "convolutions at each level, in encoder and decoder"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.convs_per_level < 1:
            raise ConfigError(
                f"UNet3DConfig.convs_per_level is {self.convs_per_level}.", hint="Use 1 or more"
            )


@dataclass(frozen=True, kw_only=True)
class ResidualUNet3DConfig(_Common):
    """Options of `residual_unet3d`."""

    blocks_per_level: tuple[int, ...] = field(
        default=(),
        metadata={"help": "residual blocks at each encoder level; empty: 1, 3, 4, 6, 6, ..."},
    )
    decoder_convs_per_level: int = field(
        default=1, metadata={"help": "convolutions at each decoder level"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks_per_level and (
            len(self.blocks_per_level) != len(self.features) or min(self.blocks_per_level) < 1
        ):
            raise ConfigError(
                f"ResidualUNet3DConfig.blocks_per_level is {self.blocks_per_level}, but there are "
                f"{len(self.features)} levels.",
                hint="Give one positive number a level, or none for 1, 3, 4, 6, 6, ...",
            )
        if self.decoder_convs_per_level < 1:
            raise ConfigError(
                f"ResidualUNet3DConfig.decoder_convs_per_level is {self.decoder_convs_per_level}.",
                hint="Use 1 or more",
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of residual blocks of each encoder level."""
        levels = len(self.features)
        padded = (*RESIDUAL_BLOCKS, *repeat(RESIDUAL_BLOCKS[-1], levels))
        return self.blocks_per_level or padded[:levels]


def _check_axes(owner: str, name: str, value: Sequence[Zyx], count: int) -> None:
    if value and (len(value) != count or any(len(item) != 3 or min(item) < 1 for item in value)):
        raise ConfigError(
            f"{owner}.{name} is {tuple(value)}; {count} triples (z, y, x) of positive "
            "numbers are due, as `features` sets the depth.",
            hint=f"For example: {name} = [{', '.join(['[1, 3, 3]'] * count)}]",
        )


def unet_constraints(config: UNet3DConfig | ResidualUNet3DConfig) -> Constraints:
    """Patches must be divisible by the product of all strides, per axis."""
    z, y, x = (math.prod(stride[axis] for stride in config.strides) for axis in range(3))
    return Constraints(stride_zyx=(z, y, x), min_tile_zyx=(z, y, x))


def plan_levels(
    patch_zyx: Zyx, spacing_zyx: tuple[float, float, float], *, max_levels: int
) -> tuple[tuple[Zyx, ...], tuple[Zyx, ...]]:
    """Kernels and strides for a patch and a spacing, in the manner of nnU-Net.

    An axis is halved while it has at least 8 voxels and its spacing is under twice the finest one
    of those that could be halved. A kernel is 1 along an axis until its spacing comes within a
    factor of 2 of the finest, and 3 from then on (Isensee et al. 2021, supplementary note 2).

    Returns:
        kernels of each level and strides between levels (one fewer).
    """
    size, spacing = list(patch_zyx), list(spacing_zyx)
    kernel = [1, 1, 1]
    kernels: list[Zyx] = []
    strides: list[Zyx] = []
    while True:
        for axis in range(3):
            if spacing[axis] < 2 * min(spacing) and patch_zyx[axis] > 1:
                kernel[axis] = 3
        kernels.append((kernel[0], kernel[1], kernel[2]))
        large = [axis for axis in range(3) if size[axis] >= 8]
        finest = min((spacing[axis] for axis in large), default=0.0)
        halved = [axis for axis in large if spacing[axis] < 2 * finest]
        if not halved or len(kernels) == max_levels:
            break
        if (
            len(halved) == 1 and size[halved[0]] < 12
        ):  # a last level for one short axis gains nothing
            break
        stride = [1, 1, 1]
        for axis in halved:
            stride[axis] = 2
            size[axis] = math.ceil(size[axis] / 2)
            spacing[axis] *= 2
        strides.append((stride[0], stride[1], stride[2]))
    z, y, x = (1 if length == 1 else 3 for length in patch_zyx)
    kernels[-1] = (z, y, x)  # the deepest level looks in every direction there is
    return tuple(kernels), tuple(strides)


def _fitted(plan: NetworkPlan) -> tuple[tuple[int, ...], tuple[Zyx, ...], tuple[Zyx, ...]]:
    """Features, kernels and strides for a plan."""
    limit = max(2, len(plan.features)) if plan.features else MAX_LEVELS
    kernels, strides = plan_levels(plan.patch_zyx, plan.spacing_zyx, max_levels=limit)
    if not strides:  # a patch too small to halve still needs the two levels that make a U
        kernels, strides = kernels * 2, ((1, 1, 1),)
    levels = range(len(kernels))
    features = tuple(min(MAX_FEATURES, BASE_FEATURES * 2**level) for level in levels)
    if plan.features and len(plan.features) >= len(kernels):
        features = plan.features[: len(kernels)]
    return features, kernels, strides


def unet_from_plan(plan: NetworkPlan) -> UNet3DConfig:
    """Depth, widths, kernels and strides of `unet3d` for a patch and a spacing."""
    features, kernels, strides = _fitted(plan)
    return UNet3DConfig(features=features, kernels_zyx=kernels, strides_zyx=strides)


def residual_unet_from_plan(plan: NetworkPlan) -> ResidualUNet3DConfig:
    """Depth, widths, kernels and strides of `residual_unet3d` for a patch and a spacing."""
    features, kernels, strides = _fitted(plan)
    return ResidualUNet3DConfig(features=features, kernels_zyx=kernels, strides_zyx=strides)
