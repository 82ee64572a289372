"""The built-in networks."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ctseg.hookspecs import hookimpl
from ctseg.specs import ArchitectureSpec, Constraints

if TYPE_CHECKING:
    import torch

    from ctseg.nets.slicewise_config import TimmUNetConfig


def _builder(module: str, name: str) -> Callable[..., torch.nn.Module]:
    """A build function that imports the network's module on first use."""

    def build(config: Any, *, in_channels: int, out_channels: int) -> torch.nn.Module:
        function = getattr(importlib.import_module(f"ctseg.nets.{module}"), name)
        return cast(
            "torch.nn.Module",
            function(config, in_channels=in_channels, out_channels=out_channels),
        )

    return build


def _timm_unet_constraints(config: TimmUNetConfig) -> Constraints:
    from ctseg.nets.timm_unet import timm_unet_constraints

    return timm_unet_constraints(config)


@hookimpl
def ctseg_architectures() -> Sequence[ArchitectureSpec]:
    """U-Nets of volumes, and of slices."""
    from ctseg.nets import config as volumes  # later: `ctseg --help` needs none of them
    from ctseg.nets import mednext_config
    from ctseg.nets import slicewise_config as slices

    return [
        ArchitectureSpec(
            name="unet3d",
            build=_builder("unet", "unet3d"),
            config=volumes.UNet3DConfig,
            summary="U-Net of plain convolutions, strides and kernels per axis",
            constraints=volumes.unet_constraints,
            from_plan=volumes.unet_from_plan,
            reference="Isensee et al., nnU-Net, Nature Methods 18 (2021)",
        ),
        ArchitectureSpec(
            name="residual_unet3d",
            build=_builder("unet", "residual_unet3d"),
            config=volumes.ResidualUNet3DConfig,
            summary="U-Net with a deep residual encoder and a light decoder",
            constraints=volumes.unet_constraints,
            from_plan=volumes.residual_unet_from_plan,
            reference="Isensee et al., nnU-Net Revisited, MICCAI 2024, arXiv:2404.09556",
        ),
        ArchitectureSpec(
            name="residual_unet_se3d",
            build=_builder("unet", "residual_unet3d"),
            config=volumes.ResidualUNetSE3DConfig,
            summary="residual_unet3d with squeeze and excitation in its blocks",
            constraints=volumes.unet_constraints,
            from_plan=volumes.residual_unet_se_from_plan,
            reference="Roy et al., Concurrent Squeeze & Excitation, MICCAI 2018, arXiv:1803.02579",
        ),
        ArchitectureSpec(
            name="mednext",
            build=_builder("mednext", "mednext"),
            config=mednext_config.MedNeXtConfig,
            summary="MedNeXt: depthwise convolutions and wide 1x1x1 layers, in four sizes",
            constraints=volumes.unet_constraints,
            from_plan=mednext_config.mednext_from_plan,
            reference="Roy et al., MICCAI 2023, arXiv:2303.09975",
        ),
        ArchitectureSpec(
            name="unet2d",
            build=_builder("unet2d", "unet2d"),
            config=slices.UNet2DConfig,
            summary="U-Net of plain convolutions within slices, for thick ones",
            constraints=slices.unet2d_constraints,
            from_plan=slices.unet2d_from_plan,
            reference="Ronneberger et al., U-Net, MICCAI 2015, arXiv:1505.04597",
        ),
        ArchitectureSpec(
            name="residual_unet2d",
            build=_builder("unet2d", "residual_unet2d"),
            config=slices.ResidualUNet2DConfig,
            summary="residual_unet3d within slices, for thick ones",
            constraints=slices.unet2d_constraints,
            from_plan=slices.residual_unet2d_from_plan,
            reference="Isensee et al., nnU-Net Revisited, MICCAI 2024, arXiv:2404.09556",
        ),
        ArchitectureSpec(
            name="timm_unet",
            build=_builder("timm_unet", "timm_unet"),
            config=slices.TimmUNetConfig,
            summary="2.5D U-Net around any convolutional encoder of timm",
            constraints=_timm_unet_constraints,
            reference="Wightman, PyTorch Image Models, doi:10.5281/zenodo.4414861",
        ),
    ]
