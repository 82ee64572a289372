"""The plugins that this package registers with ctseg."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ctseg
from ctseg.specs import ArchitectureSpec, Constraints, LossSpec
from ctseg_monai.options import (
    SWIN_SMALLEST,
    SWIN_STRIDE,
    SegResNetConfig,
    SwinUNETRConfig,
    TverskyConfig,
    segresnet_constraints,
    segresnet_from_plan,
)

if TYPE_CHECKING:
    import torch


def _segresnet(config: SegResNetConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    from ctseg_monai.nets import segresnet

    return segresnet(config, in_channels=in_channels, out_channels=out_channels)


def _swinunetr(config: SwinUNETRConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    from ctseg_monai.nets import swinunetr

    return swinunetr(config, in_channels=in_channels, out_channels=out_channels)


def _tversky(config: TverskyConfig) -> Callable[..., torch.Tensor]:
    from ctseg_monai.losses import Tversky

    return Tversky(config)


@ctseg.hookimpl
def ctseg_architectures() -> Sequence[ArchitectureSpec]:
    """SegResNet and Swin UNETR."""
    return [
        ArchitectureSpec(
            name="monai_segresnet",
            build=_segresnet,
            config=SegResNetConfig,
            summary="SegResNet of MONAI: residual blocks with group normalisation",
            constraints=segresnet_constraints,
            from_plan=segresnet_from_plan,
            reference="Myronenko, BrainLes 2018, arXiv:1810.11654",
        ),
        ArchitectureSpec(
            name="monai_swinunetr",
            build=_swinunetr,
            config=SwinUNETRConfig,
            summary="Swin UNETR of MONAI: shifted-window transformer encoder",
            constraints=Constraints(stride_zyx=SWIN_STRIDE, min_tile_zyx=SWIN_SMALLEST),
            reference="Hatamizadeh et al., BrainLes 2021, arXiv:2201.01266",
        ),
    ]


@ctseg.hookimpl
def ctseg_losses() -> Sequence[LossSpec]:
    """The Tversky loss."""
    return [
        LossSpec(
            name="monai_tversky",
            build=_tversky,
            config=TverskyConfig,
            tasks=frozenset({"classes", "channels"}),
            summary="Tversky loss of MONAI, with weights for false positives and false negatives",
            reference="Salehi et al., MLMI 2017, arXiv:1706.05721",
        )
    ]
