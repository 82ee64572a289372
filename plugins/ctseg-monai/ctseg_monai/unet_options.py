"""Options of MONAI's UNet, DynUNet and UNETR, and their constraints on patches. Imports neither torch nor MONAI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ctseg.errors import ConfigError
from ctseg.specs import Constraints, NetworkPlan
from ctseg_monai.layers import Layers, Zyx, check_levels, halvings, product

HALVED: tuple[Zyx, ...] = ((2, 2, 2),) * 4


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Layers):
    """Options of `monai_unet`."""

    channels: tuple[int, ...] = field(
        default=(16, 32, 64, 128, 256), metadata={"help": "channels of each level"}
    )
    strides_zyx: tuple[Zyx, ...] = field(
        default=HALVED, metadata={"help": "stride of each level below the first"}
    )
    kernel_zyx: Zyx = field(
        default=(3, 3, 3), metadata={"help": "kernel of the encoder's convolutions"}
    )
    up_kernel_zyx: Zyx = field(
        default=(3, 3, 3), metadata={"help": "kernel of the decoder's convolutions"}
    )
    num_res_units: int = field(
        default=2, metadata={"help": "convolutions of a residual unit; 0 for plain convolutions"}
    )
    bias: bool = field(default=True, metadata={"help": "whether convolutions have a bias"})
    order: str = field(
        default="NDA", metadata={"help": "order of normalisation, dropout and activation"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels("monai_unet", len(self.channels), self.strides_zyx)
        if min(self.channels) < 1 or self.num_res_units < 0:
            raise ConfigError("Channels are at least 1, residual units at least 0.")
        if any(n % 2 == 0 or n < 1 for n in (*self.kernel_zyx, *self.up_kernel_zyx)):
            raise ConfigError("Kernels have odd sizes.", hint="For example: [3, 3, 3]")
        if sorted(self.order) not in (["A", "D", "N"], ["A", "N"], ["A", "D"], ["A"]):
            raise ConfigError(f"'{self.order}' is no order of N, D and A.", hint="For example: NDA")


def unet_constraints(config: UNetConfig) -> Constraints:
    """Sides are multiples of the product of the strides; the lowest level has two voxels for its statistics."""
    return _constraints(product(config.strides_zyx))


def unet_from_plan(plan: NetworkPlan) -> UNetConfig:
    """Up to five levels, with at least 4 voxels along each halved axis of the patch."""
    strides = halvings(plan.patch_zyx, 5)
    first = plan.features[0] if plan.features else 16
    channels = tuple(first * 2**level for level in range(len(strides) + 1))
    return UNetConfig(channels=channels, strides_zyx=strides)


@dataclass(frozen=True, kw_only=True)
class DynUNetConfig(Layers):
    """Options of `monai_dynunet`."""

    filters: tuple[int, ...] = field(
        default=(32, 64, 128, 256, 320, 320), metadata={"help": "channels of each level"}
    )
    kernels_zyx: tuple[Zyx, ...] = field(
        default=((3, 3, 3),) * 6, metadata={"help": "kernel of each level"}
    )
    strides_zyx: tuple[Zyx, ...] = field(
        default=((2, 2, 2),) * 5, metadata={"help": "stride of each level below the first"}
    )
    res_block: bool = field(default=False, metadata={"help": "residual blocks"})
    trans_bias: bool = field(
        default=False, metadata={"help": "whether transposed convolutions have a bias"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels("monai_dynunet", len(self.filters), self.strides_zyx)
        if len(self.filters) < 3 or len(self.kernels_zyx) != len(self.filters):
            raise ConfigError(
                f"monai_dynunet has {len(self.filters)} levels and {len(self.kernels_zyx)} kernels.",
                hint="Give at least three levels, with one kernel each",
            )
        if min(self.filters) < 1 or any(n % 2 == 0 for k in self.kernels_zyx for n in k):
            raise ConfigError("Filters are at least 1, and kernels have odd sizes.")


def dynunet_constraints(config: DynUNetConfig) -> Constraints:
    """As those of `monai_unet`."""
    return _constraints(product(config.strides_zyx))


def _constraints(stride: Zyx) -> Constraints:
    z, y, x = stride
    return Constraints(stride_zyx=stride, min_tile_zyx=(z, y, 2 * x))


def dynunet_from_plan(plan: NetworkPlan) -> DynUNetConfig:
    """Up to six levels, with at least 4 voxels along each halved axis of the patch."""
    strides = halvings(plan.patch_zyx, 6)
    if len(strides) < 2:
        strides = (*strides, (1, 1, 1))
    first = plan.features[0] if plan.features else 32
    filters = tuple(min(first * 2**level, 10 * first) for level in range(len(strides) + 1))
    return DynUNetConfig(
        filters=filters, kernels_zyx=((3, 3, 3),) * len(filters), strides_zyx=strides
    )


@dataclass(frozen=True, kw_only=True)
class UNETRConfig:
    """Options of `monai_unetr`."""

    tile_zyx: Zyx = field(
        default=(96, 96, 96), metadata={"help": "the only patch it takes; multiples of 16"}
    )
    feature_size: int = field(
        default=16, metadata={"help": "width of the first level of the decoder"}
    )
    hidden_size: int = field(default=768, metadata={"help": "width of the transformer"})
    mlp_dim: int = field(default=3072, metadata={"help": "width within its blocks"})
    num_heads: int = field(default=12, metadata={"help": "attention heads"})
    projection: Literal["conv", "perceptron"] = field(
        default="conv", metadata={"help": "embedding of patches: conv or perceptron"}
    )
    norm_affine: bool = field(
        default=False, metadata={"help": "whether instance normalisation has weights"}
    )
    conv_block: bool = field(default=True, metadata={"help": "blocks in the skip connections"})
    res_block: bool = field(default=True, metadata={"help": "residual blocks"})
    qkv_bias: bool = field(default=False, metadata={"help": "whether attention has a bias"})
    dropout: float = field(default=0.0, metadata={"help": "dropout, 0 to below 1"})

    def __post_init__(self) -> None:
        if min(self.tile_zyx) < 16 or any(n % 16 for n in self.tile_zyx):
            raise ConfigError(
                f"tile_zyx is {self.tile_zyx}.", hint="Use multiples of 16, e.g. [96, 96, 96]"
            )
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} cannot be shared by {self.num_heads} heads."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}.", hint="Use 0 to below 1")


def unetr_constraints(config: UNETRConfig) -> Constraints:
    """One patch size only, for which positions are embedded."""
    return Constraints(fixed_tile_zyx=config.tile_zyx)


def unetr_from_plan(plan: NetworkPlan) -> UNETRConfig:
    """The patch of the plan, rounded up to multiples of 16."""
    z, y, x = (-(-size // 16) * 16 for size in plan.patch_zyx)
    return UNETRConfig(tile_zyx=(z, y, x))
