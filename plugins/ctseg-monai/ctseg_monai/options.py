"""Options of the networks and the loss, and their constraints on patches. Imports neither torch nor MONAI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ctseg.errors import ConfigError
from ctseg.specs import Constraints, NetworkPlan, Zyx


@dataclass(frozen=True, kw_only=True)
class SegResNetConfig:
    """Options of `monai_segresnet`."""

    init_filters: int = field(
        default=16, metadata={"help": "channels at full resolution; doubled at each level below"}
    )
    blocks_down: tuple[int, ...] = field(
        default=(1, 2, 2, 4), metadata={"help": "residual blocks at each level of the encoder"}
    )
    blocks_up: tuple[int, ...] = field(
        default=(1, 1, 1), metadata={"help": "residual blocks at each level of the decoder"}
    )
    num_groups: int = field(default=8, metadata={"help": "groups of the group normalisation"})
    dropout: float = field(
        default=0.0, metadata={"help": "dropout before the encoder, 0 to below 1"}
    )
    upsampling: Literal["nontrainable", "deconv", "pixelshuffle"] = field(
        default="nontrainable",
        metadata={"help": "nontrainable (trilinear), deconv or pixelshuffle"},
    )

    def __post_init__(self) -> None:
        if len(self.blocks_down) < 2 or len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ConfigError(
                f"blocks_down has {len(self.blocks_down)} levels and blocks_up {len(self.blocks_up)}.",
                hint="blocks_up has one level fewer, e.g. blocks_down=[1,2,2,4] blocks_up=[1,1,1]",
            )
        if min(*self.blocks_down, *self.blocks_up, self.num_groups) < 1:
            raise ConfigError("blocks and groups are at least 1.")
        if self.init_filters % self.num_groups:
            raise ConfigError(
                f"init_filters is {self.init_filters} and cannot be split into {self.num_groups} groups.",
                hint=f"Use a multiple of {self.num_groups}, or set num_groups",
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}.", hint="Use 0 to below 1")


def segresnet_constraints(config: SegResNetConfig) -> Constraints:
    """Every level but the first halves all axes."""
    stride = 2 ** (len(config.blocks_down) - 1)
    return Constraints(stride_zyx=(stride,) * 3, min_tile_zyx=(stride,) * 3)


def segresnet_from_plan(plan: NetworkPlan) -> SegResNetConfig:
    """Options with as many levels, up to four, as leave at least 4 voxels along the shortest axis of the patch."""
    levels = 2
    while levels < 4 and min(plan.patch_zyx) // 2**levels >= 4:
        levels += 1
    blocks = SegResNetConfig()
    return SegResNetConfig(
        init_filters=plan.features[0] if plan.features and plan.features[0] % 8 == 0 else 16,
        blocks_down=blocks.blocks_down[:levels],
        blocks_up=blocks.blocks_up[: levels - 1],
    )


@dataclass(frozen=True, kw_only=True)
class SwinUNETRConfig:
    """Options of `monai_swinunetr`."""

    feature_size: int = field(
        default=24, metadata={"help": "width of the first level, a multiple of 12"}
    )
    depths: tuple[int, int, int, int] = field(
        default=(2, 2, 2, 2), metadata={"help": "transformer blocks of each of the four stages"}
    )
    num_heads: tuple[int, int, int, int] = field(
        default=(3, 6, 12, 24), metadata={"help": "attention heads of each of the four stages"}
    )
    window_size: int = field(
        default=7, metadata={"help": "side of an attention window, in patches of 2^3 voxels"}
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout within the transformer blocks"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of attention weights"})
    drop_path: float = field(
        default=0.0, metadata={"help": "probability of skipping a transformer block in training"}
    )
    use_v2: bool = field(
        default=False, metadata={"help": "Swin UNETR V2: a residual block before each stage"}
    )

    def __post_init__(self) -> None:
        if self.feature_size < 12 or self.feature_size % 12:
            raise ConfigError(
                f"feature_size is {self.feature_size}.", hint="Use a multiple of 12, e.g. 24 or 48"
            )
        for stage, heads in enumerate(self.num_heads):
            if heads < 1 or self.feature_size * 2**stage % heads:
                raise ConfigError(
                    f"num_heads is {self.num_heads}: {self.feature_size * 2**stage} channels of stage "
                    f"{stage + 1} cannot be shared by {heads} heads.",
                    hint="Use num_heads=[3,6,12,24]",
                )
        for name in ("dropout", "attention_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}.", hint="Use 0 to below 1")
        if min(*self.depths, self.window_size) < 1:
            raise ConfigError("depths and window_size are at least 1.")


SWIN_STRIDE: Zyx = (32, 32, 32)
"""Product of the strides: patches of 2 voxels, merged four times."""
SWIN_SMALLEST: Zyx = (64, 64, 64)
"""Smallest tile: instance normalisation at the lowest level needs more than one voxel."""


@dataclass(frozen=True, kw_only=True)
class TverskyConfig:
    """Options of `monai_tversky`."""

    alpha: float = field(default=0.3, metadata={"help": "weight of false positives"})
    beta: float = field(default=0.7, metadata={"help": "weight of false negatives"})
    include_background: bool = field(
        default=False, metadata={"help": "for the task `classes`: whether class 0 counts"}
    )
    batch: bool = field(
        default=False,
        metadata={"help": "one index over the whole batch rather than one per sample"},
    )
    smooth: float = field(
        default=1e-5,
        metadata={"help": "added to numerator and denominator, so absent classes are finite"},
    )

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta) < 0 or self.alpha + self.beta == 0 or self.smooth <= 0:
            raise ConfigError(
                f"alpha is {self.alpha}, beta {self.beta}, smooth {self.smooth}.",
                hint="alpha and beta must be 0 or more, one of them and smooth above 0",
            )
