"""The networks in the box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctseg.hookspecs import hookimpl
from ctseg.nets.config import (
    ResidualUNet3DConfig,
    UNet3DConfig,
    residual_unet_from_plan,
    unet_constraints,
    unet_from_plan,
)
from ctseg.specs import ArchitectureSpec

if TYPE_CHECKING:
    import torch


def _unet3d(config: UNet3DConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    from ctseg.nets.unet import unet3d

    return unet3d(config, in_channels=in_channels, out_channels=out_channels)


def _residual_unet3d(
    config: ResidualUNet3DConfig, *, in_channels: int, out_channels: int
) -> torch.nn.Module:
    from ctseg.nets.unet import residual_unet3d

    return residual_unet3d(config, in_channels=in_channels, out_channels=out_channels)


@hookimpl
def ctseg_architectures() -> Sequence[ArchitectureSpec]:
    """The plain and the residual U-Net."""
    return [
        ArchitectureSpec(
            name="unet3d",
            build=_unet3d,
            config=UNet3DConfig,
            summary="U-Net of plain convolutions, strides and kernels per axis",
            constraints=unet_constraints,
            from_plan=unet_from_plan,
            reference="Isensee et al., nnU-Net, Nature Methods 18 (2021)",
        ),
        ArchitectureSpec(
            name="residual_unet3d",
            build=_residual_unet3d,
            config=ResidualUNet3DConfig,
            summary="U-Net with a deep residual encoder and a light decoder",
            constraints=unet_constraints,
            from_plan=residual_unet_from_plan,
            reference="Isensee et al., nnU-Net Revisited, MICCAI 2024, arXiv:2404.09556",
        ),
    ]
