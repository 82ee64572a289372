"""What this package registers with ctseg: networks, a loss, and an importer of MONAI bundles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ctseg
from ctseg.importer_specs import ImportedModel, ImporterSpec
from ctseg.specs import ArchitectureSpec, Constraints, LossSpec, frozen

if TYPE_CHECKING:
    import torch

    from ctseg_monai.options import SegResNetConfig, SwinUNETRConfig, TverskyConfig
    from ctseg_monai.unet_options import DynUNetConfig, UNetConfig, UNETRConfig


def _segresnet(config: SegResNetConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    from ctseg_monai.nets import segresnet

    return segresnet(config, in_channels=in_channels, out_channels=out_channels)


def _swinunetr(config: SwinUNETRConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    from ctseg_monai.nets import swinunetr

    return swinunetr(config, in_channels=in_channels, out_channels=out_channels)


def _unet(config: UNetConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    from ctseg_monai.nets import unet

    return unet(config, in_channels=in_channels, out_channels=out_channels)


def _dynunet(config: DynUNetConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    from ctseg_monai.nets import dynunet

    return dynunet(config, in_channels=in_channels, out_channels=out_channels)


def _unetr(config: UNETRConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    from ctseg_monai.nets import unetr

    return unetr(config, in_channels=in_channels, out_channels=out_channels)


def _recognise(path: Path) -> bool:
    from ctseg_monai.bundle import recognise

    return recognise(path)


def _read(paths: Sequence[Path], **options: str) -> ImportedModel:
    from ctseg_monai.bundle import read

    return read(paths, **options)


def _tversky(config: TverskyConfig) -> Callable[..., torch.Tensor]:
    from ctseg_monai.losses import Tversky

    return Tversky(config)


@ctseg.hookimpl
def ctseg_architectures() -> Sequence[ArchitectureSpec]:
    """MONAI's networks for volumes."""
    from ctseg_monai import options  # later: `ctseg --help` needs none of them
    from ctseg_monai import unet_options as unets

    return [
        ArchitectureSpec(
            name="monai_segresnet",
            build=_segresnet,
            config=options.SegResNetConfig,
            summary="SegResNet of MONAI: residual blocks with group normalisation",
            constraints=options.segresnet_constraints,
            from_plan=options.segresnet_from_plan,
            reference="Myronenko, BrainLes 2018, arXiv:1810.11654",
        ),
        ArchitectureSpec(
            name="monai_swinunetr",
            build=_swinunetr,
            config=options.SwinUNETRConfig,
            summary="Swin UNETR of MONAI: shifted-window transformer encoder",
            constraints=Constraints(
                stride_zyx=options.SWIN_STRIDE, min_tile_zyx=options.SWIN_SMALLEST
            ),
            reference="Hatamizadeh et al., BrainLes 2021, arXiv:2201.01266",
        ),
        ArchitectureSpec(
            name="monai_unet",
            build=_unet,
            config=unets.UNetConfig,
            summary="UNet of MONAI: residual units, transposed convolutions",
            constraints=unets.unet_constraints,
            from_plan=unets.unet_from_plan,
            reference="Kerfoot et al., STACOM 2018, doi:10.1007/978-3-030-12029-0_40",
        ),
        ArchitectureSpec(
            name="monai_dynunet",
            build=_dynunet,
            config=unets.DynUNetConfig,
            summary="DynUNet of MONAI: nnU-Net's network, with kernels and strides of its own for each level",
            constraints=unets.dynunet_constraints,
            from_plan=unets.dynunet_from_plan,
            reference="Isensee et al., Nature Methods 18, 2021",
        ),
        ArchitectureSpec(
            name="monai_unetr",
            build=_unetr,
            config=unets.UNETRConfig,
            summary="UNETR of MONAI: a transformer encoder for patches of one size",
            constraints=unets.unetr_constraints,
            from_plan=unets.unetr_from_plan,
            reference="Hatamizadeh et al., WACV 2022, arXiv:2103.10504",
        ),
    ]


@ctseg.hookimpl
def ctseg_losses() -> Sequence[LossSpec]:
    """The Tversky loss."""
    from ctseg_monai.options import TverskyConfig

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


@ctseg.hookimpl
def ctseg_importers() -> Sequence[ImporterSpec]:
    """Bundles of MONAI."""
    return [
        ImporterSpec(
            name="monai",
            recognise=_recognise,
            read=_read,
            summary="MONAI: a bundle as the model zoo gives them, folder or zip; its configuration is read as data",
            paths=("BUNDLE",),
            options=frozen(
                {
                    "config": "configs/inference.json (or .yaml) by default",
                    "weights": "models/model.pt by default",
                    "skip": "names of post-processing transforms to leave out, separated by commas",
                }
            ),
        )
    ]
