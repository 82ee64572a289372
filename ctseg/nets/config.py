"""Options of the U-Nets, their constraints on patches, and options from a plan. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal

from ctseg.nets.layer_order import Activation, Norm
from ctseg.nets.options import (
    CHOICES,
    MOST_IN_LEVEL,
    MOST_WIDTH,
    Downsampling,
    LevelOptions,
    Skip,
    UNetOptions,
    Upsampling,
)
from ctseg.specs import Constraints, NetworkPlan, Zyx

__all__ = [
    "CHOICES", "Activation", "Downsampling", "Norm", "ResidualUNet3DConfig", "ResidualUNetSE3DConfig", "Skip",
    "UNet3DConfig", "UNetOptions", "Upsampling", "plan_levels", "residual_unet_from_plan",
    "residual_unet_se_from_plan", "sizes_from_plan", "unet_constraints", "unet_from_plan",
]  # fmt: skip

Widen = Literal["first", "gradual"]
Block = Literal["basic", "projected"]
DecoderBlock = Literal["conv", "residual"]
Excitation = Literal["channel", "spatial", "concurrent"]
ExcitationPlace = Literal["branch", "output"]

RESIDUAL_BLOCKS = (1, 3, 4, 6)  # nnU-Net's residual encoder; levels below take the last number
BASE_FEATURES, MAX_FEATURES, MAX_LEVELS = 32, 320, 6


@dataclass(frozen=True, kw_only=True)
class UNet3DConfig(UNetOptions):
    """Options of `unet3d`."""

    convs_per_level: int = field(
        default=2, metadata={"help": "convolutions at each level, in encoder and decoder"}
    )
    encoder_convs: tuple[int, ...] = field(
        default=(),
        metadata={"help": "convolutions at each encoder level; empty: convs_per_level everywhere"},
    )
    decoder_convs: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "convolutions at each decoder level, from full resolution down; empty: convs_per_level"
        },
    )
    dropouts: tuple[float, ...] = field(
        default=(),
        metadata={
            "help": "dropout of the first, second, ... convolution of a level; empty: dropout at each"
        },
    )
    widen: Widen = field(
        default="first",
        metadata={
            "help": "which convolution of an encoder level brings its width: the first, or half of it at the first "
            "and all at the next (gradual)"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number(
            "convs_per_level", 1 <= self.convs_per_level <= MOST_IN_LEVEL, f"1 to {MOST_IN_LEVEL}"
        )
        self._check_counts("encoder_convs", len(self.features))
        self._check_counts("decoder_convs", len(self.features) - 1)
        if self.dropouts:
            most = max(*self.convs_of_encoder, *self.convs_of_decoder)
            if len(self.dropouts) < most or not all(0 <= p < 1 for p in self.dropouts):
                self._refuse(
                    "dropouts",
                    f"it takes {most} probabilities from 0 to below 1",
                    hint=f"For example: dropouts = {[0.1] * most}",
                )

    @property
    def convs_of_encoder(self) -> tuple[int, ...]:
        """Convolutions of each encoder level."""
        return self.encoder_convs or tuple(repeat(self.convs_per_level, len(self.features)))

    @property
    def convs_of_decoder(self) -> tuple[int, ...]:
        """Convolutions of each decoder level, from full resolution down."""
        return self.decoder_convs or tuple(repeat(self.convs_per_level, len(self.features) - 1))


@dataclass(frozen=True, kw_only=True)
class ResidualUNet3DConfig(UNetOptions):
    """Options of `residual_unet3d`."""

    blocks_per_level: tuple[int, ...] = field(
        default=(),
        metadata={"help": "residual blocks at each encoder level; empty: 1, 3, 4, 6, 6, ..."},
    )
    decoder_convs_per_level: int = field(
        default=1, metadata={"help": "convolutions (or blocks) at each decoder level"}
    )
    decoder_convs: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "convolutions (or blocks) of each decoder level, from the finest; empty: the same everywhere"
        },
    )
    block: Block = field(
        default="basic",
        metadata={
            "help": "basic (two convolutions beside a shortcut), or projected (a 1x1x1 convolution first, then two "
            "more beside its output, as pytorch-3dunet; a leaky ReLU that ends it has slope 0.1)"
        },
    )
    decoder_block: DecoderBlock = field(
        default="conv", metadata={"help": "what a decoder level is made of: conv or residual"}
    )
    stem: bool = field(
        default=True, metadata={"help": "whether a convolution comes before the first block"}
    )
    stem_features: int = field(
        default=0, metadata={"help": "width of that convolution; 0: as the first level"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("blocks_per_level", len(self.features))
        self._check_number(
            "decoder_convs_per_level",
            1 <= self.decoder_convs_per_level <= MOST_IN_LEVEL,
            f"1 to {MOST_IN_LEVEL}",
        )
        self._check_counts("decoder_convs", len(self.features) - 1)
        self._check_number(
            "stem_features",
            0 <= self.stem_features <= MOST_WIDTH,
            f"0 or a width up to {MOST_WIDTH}",
        )
        if self.block == "projected" and self.downsampling == "strided":
            self._refuse(
                "block",
                "a projected block has no stride",
                hint='Add downsampling = "max" (or "avg")',
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of residual blocks of each encoder level."""
        levels = len(self.features)
        padded = (*RESIDUAL_BLOCKS, *repeat(RESIDUAL_BLOCKS[-1], levels))
        return self.blocks_per_level or padded[:levels]

    @property
    def convs_of_decoder(self) -> tuple[int, ...]:
        """Convolutions or blocks of each decoder level, from full resolution down."""
        count = self.decoder_convs_per_level
        return self.decoder_convs or tuple(repeat(count, len(self.features) - 1))


@dataclass(frozen=True, kw_only=True)
class ResidualUNetSE3DConfig(ResidualUNet3DConfig):
    """Options of `residual_unet_se3d`."""

    excitation: Excitation = field(
        default="concurrent",
        metadata={
            "help": "what weighs the features: channel, spatial, or concurrent (the larger of both)"
        },
    )
    excitation_reduction: int = field(
        default=2, metadata={"help": "by how much the channels shrink within channel excitation"}
    )
    excitation_place: ExcitationPlace = field(
        default="branch",
        metadata={
            "help": "branch (before the sum with the shortcut) or output (after it and its activation)"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("excitation_reduction", self.excitation_reduction >= 1, "1 or more")


def unet_constraints(config: LevelOptions) -> Constraints:
    """Patches must be divisible by the product of all strides, per axis."""
    z, y, x = (math.prod(stride[axis] for stride in config.strides) for axis in range(3))
    return Constraints(stride_zyx=(z, y, x), min_tile_zyx=(z, y, x))


def plan_levels(
    patch_zyx: Zyx, spacing_zyx: tuple[float, float, float], *, max_levels: int
) -> tuple[tuple[Zyx, ...], tuple[Zyx, ...]]:
    """Kernels and strides for a patch and a spacing, by nnU-Net's rules.

    An axis is halved while it has at least 8 voxels and its spacing is under twice the finest one
    of those that could be halved. A kernel is 1 along an axis until its spacing comes within a
    factor of 2 of the finest, and 3 from then on (Isensee et al. 2021, supplementary note 2). An axis of one
    voxel is ignored.

    Returns:
        kernels of each level and strides between levels (one fewer).
    """
    size, spacing = list(patch_zyx), list(spacing_zyx)
    long = [axis for axis in range(3) if size[axis] > 1]
    kernel = [1, 1, 1]
    kernels: list[Zyx] = []
    strides: list[Zyx] = []
    while True:
        for axis in long:  # the spacing along a single slice is ignored
            if spacing[axis] < 2 * min(spacing[a] for a in long):
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
    kernels[-1] = (z, y, x)  # the deepest level uses 3 along every axis with more than one voxel
    return tuple(kernels), tuple(strides)


def sizes_from_plan(plan: NetworkPlan) -> tuple[tuple[int, ...], tuple[Zyx, ...], tuple[Zyx, ...]]:
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
    features, kernels, strides = sizes_from_plan(plan)
    return UNet3DConfig(features=features, kernels_zyx=kernels, strides_zyx=strides)


def residual_unet_from_plan(plan: NetworkPlan) -> ResidualUNet3DConfig:
    """Depth, widths, kernels and strides of `residual_unet3d` for a patch and a spacing."""
    features, kernels, strides = sizes_from_plan(plan)
    return ResidualUNet3DConfig(features=features, kernels_zyx=kernels, strides_zyx=strides)


def residual_unet_se_from_plan(plan: NetworkPlan) -> ResidualUNetSE3DConfig:
    """Depth, widths, kernels and strides of `residual_unet_se3d` for a patch and a spacing."""
    features, kernels, strides = sizes_from_plan(plan)
    return ResidualUNetSE3DConfig(features=features, kernels_zyx=kernels, strides_zyx=strides)
