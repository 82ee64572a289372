"""`timm_unet`: any convolutional encoder of timm in a 2.5D U-Net, slice by slice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ctseg.errors import ConfigError
from ctseg.nets.blocks import make_activation
from ctseg.nets.norm import InstanceNorm
from ctseg.nets.slicewise import fold, unfold, with_neighbours
from ctseg.nets.slicewise_config import TimmUNetConfig
from ctseg.nets.timm_encoder import describe, make_encoder, weights_path
from ctseg.nets.unet import init_weights
from ctseg.specs import Constraints

FIRST_WIDTH, LARGEST_WIDTH = 16, 256


def timm_unet_constraints(config: TimmUNetConfig) -> Constraints:
    """In the plane multiples of the encoder's reduction, at least twice that; along z its context slices.

    Raises:
        UnknownName, ConfigError, FileProblem: an encoder or a file of weights that cannot be used.
    """
    if config.encoder_weights:
        weights_path(config.encoder_weights)  # fails here, before data are read
    side = describe(config.encoder, config.levels).reductions[-1]
    return Constraints(
        stride_zyx=(1, side, side),
        min_tile_zyx=(2 * config.context_slices + 1, 2 * side, 2 * side),
        context_slices=config.context_slices,
        dims=2,
    )


class _PlaneInstanceNorm(InstanceNorm):
    """Instance normalisation of slices [N, C, Y, X]."""

    def forward(self, x_ncyx: torch.Tensor) -> torch.Tensor:
        return super().forward(x_ncyx.unsqueeze(2)).squeeze(2)


def _norm(config: TimmUNetConfig, channels: int) -> nn.Module:
    if config.norm == "instance":
        return _PlaneInstanceNorm(channels)
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    if config.norm == "group":
        return nn.GroupNorm(math.gcd(config.norm_groups, channels), channels)
    return nn.Identity()


def _conv(in_channels: int, out_channels: int, config: TimmUNetConfig) -> nn.Sequential:
    """Convolution, dropout, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=config.norm == "none"),
        nn.Dropout2d(config.dropout) if config.dropout else nn.Identity(),
        _norm(config, out_channels),
        make_activation(config.activation),
    )


class _Up(nn.Module):
    """One level up: upsampling, concatenation with the finer map, two convolutions."""

    def __init__(
        self, below: int, skip: int, width: int, factor: int, config: TimmUNetConfig
    ) -> None:
        super().__init__()
        self.factor = factor
        self.enlarge: nn.Conv2d | nn.ConvTranspose2d
        if config.upsampling == "transposed":
            self.enlarge = nn.ConvTranspose2d(below, width, factor, factor, bias=False)
        else:
            self.enlarge = nn.Conv2d(below, width, 1, bias=False)
        self.bilinear = config.upsampling == "bilinear"
        self.convs = nn.Sequential(_conv(width + skip, width, config), _conv(width, width, config))

    def forward(self, y: torch.Tensor, finer: torch.Tensor) -> torch.Tensor:
        """[N, below, Y, X] and [N, skip, Y*factor, X*factor] to [N, width, Y*factor, X*factor]."""
        y = self.enlarge(y)
        if self.bilinear:
            y = functional.interpolate(y, scale_factor=float(self.factor), mode="bilinear").to(
                y.dtype
            )
        out: torch.Tensor = self.convs(torch.cat((y, finer.to(y.dtype)), 1))
        return out


class TimmUNet(nn.Module):
    """An encoder of timm and a light decoder; the image itself is concatenated at full resolution.

    Args:
        encoder: returns its feature maps, from the finest down.
        skips: channels of the maps that are concatenated, from full resolution down; the last is the deepest map.
        reductions: reduction of each of them, from 1 up.
        widths: widths of the decoder's levels, from full resolution down.
        out_channels: channels of the logits.
    """

    def __init__(
        self,
        encoder: nn.Module,
        config: TimmUNetConfig,
        *,
        skips: Sequence[int],
        reductions: Sequence[int],
        widths: Sequence[int],
        out_channels: int,
    ) -> None:
        super().__init__()
        self.context = config.context_slices
        self.encoder = encoder
        self.decoder, self.heads = nn.ModuleList(), nn.ModuleList()
        below = skips[-1]
        for level in reversed(range(len(widths))):
            factor = reductions[level + 1] // reductions[level]
            self.decoder.append(_Up(below, skips[level], widths[level], factor, config))
            below = widths[level]
            if level == 0 or config.deep_supervision:
                self.heads.append(nn.Conv2d(below, out_channels, 1))
        self.decoder.apply(init_weights)
        self.heads.apply(init_weights)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """[B, C, Z, Y, X] to logits [B, K, Z, Y, X], or a tuple of them (finest first) in deeply supervised training.

        Slices form the batch; each has `context_slices` neighbours as channels; the first and last slice are repeated.
        """
        batch = x_bczyx.shape[0]
        image = fold(with_neighbours(x_bczyx, self.context))
        maps: list[torch.Tensor] = list(self.encoder(image))
        if len(maps) == len(self.decoder):
            maps.insert(0, image)
        every_level = self.training and len(self.heads) > 1
        outputs: list[torch.Tensor] = []
        y = maps.pop()
        for step, up in enumerate(self.decoder):
            y = up(y, maps.pop())
            if every_level:
                outputs.append(unfold(self.heads[step](y), batch))
        return tuple(reversed(outputs)) if every_level else unfold(self.heads[-1](y), batch)


def timm_unet(config: TimmUNetConfig, *, in_channels: int, out_channels: int) -> nn.Module:
    """The 2.5D U-Net around an encoder of timm."""
    image_channels = in_channels * (2 * config.context_slices + 1)
    described = describe(config.encoder, config.levels)
    encoder = make_encoder(
        config.encoder, config.levels, in_channels=image_channels, weights=config.encoder_weights
    )
    skips, reductions = described.channels, described.reductions
    if reductions[0] != 1:
        skips, reductions = (image_channels, *skips), (1, *reductions)
    count = len(skips) - 1
    if config.features and len(config.features) != count:
        raise ConfigError(
            f"timm_unet.features has {len(config.features)} widths; the decoder of "
            f"'{config.encoder}' has {count} levels.",
            hint=f"Give {count} widths, or none for 16, 32, ...",
        )
    usual = tuple(min(FIRST_WIDTH * 2**level, LARGEST_WIDTH) for level in range(count))
    return TimmUNet(
        encoder,
        config,
        skips=skips,
        reductions=reductions,
        widths=config.features or usual,
        out_channels=out_channels,
    )
