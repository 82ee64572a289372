"""Options of the slice-wise networks, and their constraints on patches. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Literal, get_args

from ctseg.errors import ConfigError
from ctseg.nets.config import (
    Activation,
    Norm,
    ResidualUNet3DConfig,
    UNet3DConfig,
    UNetOptions,
    residual_unet_from_plan,
    unet_from_plan,
)
from ctseg.nets.options import MOST_WIDTH
from ctseg.specs import Constraints, NetworkPlan, Zyx

Upsampling2D = Literal["transposed", "bilinear"]
PLANE_KERNEL: Zyx = (1, 3, 3)
PLANE_STRIDE: Zyx = (1, 2, 2)


@dataclass(frozen=True, kw_only=True)
class _InPlane(UNetOptions):
    """Options whose kernels and strides are 1 along z."""

    kernels_zyx: tuple[Zyx, ...] = field(
        default=(),
        metadata={"help": "odd kernel size of each level, 1 along z; empty: (1, 3, 3) everywhere"},
    )
    strides_zyx: tuple[Zyx, ...] = field(
        default=(),
        metadata={
            "help": "downsampling from each level to the next, 1 along z; empty: (1, 2, 2) everywhere"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kernels_zyx", "strides_zyx"):
            if any(item[0] != 1 for item in getattr(self, name)):
                raise ConfigError(
                    f"{type(self).__name__}.{name} is {getattr(self, name)}; a slice-wise network has 1 along z.",
                    hint="Use 1 as the first of each three numbers, or the network unet3d.",
                )

    @property
    def kernels(self) -> tuple[Zyx, ...]:
        """The kernel of each level."""
        return self.kernels_zyx or tuple(repeat(PLANE_KERNEL, len(self.features)))

    @property
    def strides(self) -> tuple[Zyx, ...]:
        """The downsampling between each level and the next."""
        return self.strides_zyx or tuple(repeat(PLANE_STRIDE, len(self.features) - 1))


@dataclass(frozen=True, kw_only=True)
class UNet2DConfig(_InPlane, UNet3DConfig):
    """Options of `unet2d`: those of `unet3d`, with kernels and strides of 1 along z."""


@dataclass(frozen=True, kw_only=True)
class ResidualUNet2DConfig(_InPlane, ResidualUNet3DConfig):
    """Options of `residual_unet2d`: those of `residual_unet3d`, with kernels and strides of 1 along z."""


def unet2d_constraints(config: UNetOptions) -> Constraints:
    """Any number of slices; within the plane multiples of the product of all strides, at least twice that.

    The factor of two leaves instance normalisation more than one pixel at the deepest level.
    """
    y, x = (math.prod(stride[axis] for stride in config.strides) for axis in (1, 2))
    return Constraints(stride_zyx=(1, y, x), min_tile_zyx=(1, 2 * y, 2 * x), dims=2)


def unet2d_from_plan(plan: NetworkPlan) -> UNet2DConfig:
    """Depth, widths, kernels and strides of `unet2d` for one slice of a patch."""
    config = unet_from_plan(_plan_of_slice(plan))
    return UNet2DConfig(
        features=config.features, kernels_zyx=config.kernels_zyx, strides_zyx=config.strides_zyx
    )


def residual_unet2d_from_plan(plan: NetworkPlan) -> ResidualUNet2DConfig:
    """Depth, widths, kernels and strides of `residual_unet2d` for one slice of a patch."""
    config = residual_unet_from_plan(_plan_of_slice(plan))
    return ResidualUNet2DConfig(
        features=config.features, kernels_zyx=config.kernels_zyx, strides_zyx=config.strides_zyx
    )


def _plan_of_slice(plan: NetworkPlan) -> NetworkPlan:
    _, y, x = plan.patch_zyx
    inside = plan.spacing_zyx[1:]
    return replace(plan, patch_zyx=(1, y, x), spacing_zyx=(max(inside), *inside), dims=2)


@dataclass(frozen=True, kw_only=True)
class TimmUNetConfig:
    """Options of `timm_unet`."""

    encoder: str = field(
        default="resnet18",
        metadata={
            "help": "name of a convolutional network of timm, e.g. resnet34, efficientnet_b0"
        },
    )
    context_slices: int = field(
        default=1, metadata={"help": "neighbouring slices on either side, used as channels"}
    )
    encoder_weights: str = field(
        default="",
        metadata={
            "help": "local .safetensors file with the encoder's pretrained weights; empty: random weights",
            "training_only": True,
        },
    )
    levels: int = field(
        default=0, metadata={"help": "levels of the encoder in use, from the finest; 0: all"}
    )
    features: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "width of each decoder level, from full resolution down; empty: 16, 32, ... to 256"
        },
    )
    norm: Norm = field(
        default="batch",
        metadata={"help": "normalisation of the decoder: instance, batch, group or none"},
    )
    norm_groups: int = field(
        default=8, metadata={"help": "groups of the norm 'group' (fewer where they do not divide)"}
    )
    activation: Activation = field(
        default="relu",
        metadata={
            "help": "activation of the decoder: leaky_relu (slope 0.01), relu, elu, gelu or silu"
        },
    )
    dropout: float = field(
        default=0.0,
        metadata={"help": "probability with which a channel of the decoder is dropped, 0 to 1"},
    )
    upsampling: Upsampling2D = field(
        default="transposed",
        metadata={"help": "transposed (learnt) or bilinear (after a learnt 1x1 projection)"},
    )
    deep_supervision: bool = field(
        default=False, metadata={"help": "in training, predict at every level of the decoder"}
    )

    def __post_init__(self) -> None:
        kinds = {"norm": Norm, "activation": Activation, "upsampling": Upsampling2D}
        for name, kind in kinds.items():
            allowed = get_args(kind)
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"TimmUNetConfig.{name} is '{getattr(self, name)}'.",
                    hint=f"Use one of: {', '.join(allowed)}",
                )
        for name, least in (("context_slices", 0), ("levels", 0), ("norm_groups", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"TimmUNetConfig.{name} is {getattr(self, name)}.", hint=f"Use {least} or more"
                )
        if self.levels == 1:
            raise ConfigError(
                "TimmUNetConfig.levels is 1; a U needs two.", hint="Use 2 or more, or 0 for all"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"TimmUNetConfig.dropout is {self.dropout}.",
                hint="Use a probability from 0 to below 1",
            )
        if not all(1 <= width <= MOST_WIDTH for width in self.features):
            raise ConfigError(
                f"TimmUNetConfig.features is {self.features}.",
                hint=f"Use widths from 1 to {MOST_WIDTH}, or none for 16, 32, ...",
            )
