"""`unet3d`, `residual_unet3d` and `residual_unet_se3d`: one U-Net class, several encoders and decoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ctseg.nets import cpu
from ctseg.nets.blocks import (
    LEAKY_SLOPE,
    NO_STRIDE,
    ConvNormAct,
    Upsample,
    conv_level,
    with_pooling,
)
from ctseg.nets.config import ResidualUNet3DConfig, UNet3DConfig
from ctseg.nets.options import UNetOptions
from ctseg.nets.residual import residual_level
from ctseg.specs import Zyx


class UNet(nn.Module):
    """An encoder, a decoder with a skip at each level, and 1x1x1 heads.

    Args:
        encoder: one module a level, from full resolution down, `config.features[i]` channels wide.
        decoder_level: `decoder_level(level, in_channels)` creates the layers after the concatenation at a level.
        out_channels: channels of the logits.
    """

    def __init__(
        self,
        encoder: Sequence[nn.Module],
        config: UNetOptions,
        *,
        decoder_level: Callable[[int, int], nn.Module],
        out_channels: int,
    ) -> None:
        super().__init__()
        features, strides = config.features, config.strides
        self.skip = config.skip
        self.encoder = nn.ModuleList(encoder)
        self.upsamplers, self.decoder, self.heads = (
            nn.ModuleList(),
            nn.ModuleList(),
            nn.ModuleList(),
        )
        for level in reversed(range(len(features) - 1)):
            width, below = features[level], features[level + 1]
            upsampled = below if config.upsampling_keeps_width else width
            self.upsamplers.append(Upsample(below, upsampled, config, stride=strides[level]))
            joined = width if self.skip == "sum" else width + upsampled
            self.decoder.append(decoder_level(level, joined))
            if level == 0 or config.deep_supervision:
                self.heads.append(nn.Conv3d(width, out_channels, 1))
        self.apply(init_weights)

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits [B, out_channels, Z, Y, X]; a tuple of them (finest first) in deeply supervised training."""
        skips: list[torch.Tensor] = []
        y = x_bczyx
        for level in self.encoder:
            y = level(y)
            skips.append(y)
        every_level = self.training and len(self.heads) > 1
        outputs: list[torch.Tensor] = []
        skips.pop()
        for step, (upsample, level) in enumerate(zip(self.upsamplers, self.decoder, strict=True)):
            assert isinstance(upsample, Upsample)
            y = self._join(upsample, level, y, skips.pop())
            if every_level:
                outputs.append(self.heads[step](y))
        return tuple(reversed(outputs)) if every_level else self.heads[-1](y)

    def _join(
        self, upsample: Upsample, level: nn.Module, y: torch.Tensor, skip: torch.Tensor
    ) -> torch.Tensor:
        """One level up: upsample y, join it with the skip, and apply the level."""
        skip_first = self.skip == "concat_skip_first"
        if self.skip != "sum":
            fused = cpu.fused_level(upsample, level, y, skip, skip_first=skip_first)
            if fused is not None:
                return fused
        y = upsample(y)
        parts = (skip, y) if skip_first else (y, skip)
        out: torch.Tensor = level(y + skip if self.skip == "sum" else torch.cat(parts, 1))
        return out


def _conv_strides(config: UNetOptions) -> tuple[Zyx, ...]:
    """The stride of the first convolution of each encoder level."""
    strided = config.downsampling == "strided"
    return (NO_STRIDE, *(stride if strided else NO_STRIDE for stride in config.strides))


def unet3d(config: UNet3DConfig, *, in_channels: int, out_channels: int) -> nn.Module:
    """The U-Net of plain convolutions."""
    widths = (in_channels, *config.features)
    strides = (NO_STRIDE, *config.strides)
    encoder: list[nn.Module] = []
    for level, width in enumerate(config.features):
        before, count = widths[level], config.convs_of_encoder[level]
        after = [width] * count
        if config.widen == "gradual" and count > 1:
            after[0] = max(width // 2, before)
        convs = conv_level(
            [before, *after],
            config,
            kernel=config.kernels[level],
            stride=_conv_strides(config)[level],
            dropouts=config.dropouts,
        )
        encoder.append(with_pooling(convs, config, strides[level]))

    def decoder_level(level: int, channels: int) -> nn.Module:
        after = [config.features[level]] * config.convs_of_decoder[level]
        kernel, dropouts = config.kernels[level], config.dropouts
        return conv_level([channels, *after], config, kernel=kernel, dropouts=dropouts)

    return UNet(encoder, config, decoder_level=decoder_level, out_channels=out_channels)


def residual_unet3d(
    config: ResidualUNet3DConfig, *, in_channels: int, out_channels: int
) -> nn.Module:
    """The U-Net with a residual encoder: a stem, then blocks, the first of each level strided."""
    stem: nn.Module | None = None
    previous = in_channels
    if config.stem:
        previous = config.stem_features or config.features[0]
        stem = ConvNormAct(in_channels, previous, config, kernel=config.kernels[0])
    strides = (NO_STRIDE, *config.strides)
    encoder: list[nn.Module] = []
    for level, width in enumerate(config.features):
        blocks = residual_level(
            previous,
            width,
            config,
            blocks=config.blocks[level],
            kernel=config.kernels[level],
            stride=_conv_strides(config)[level],
        )
        if stem is not None and level == 0:
            blocks.insert(0, stem)
        encoder.append(with_pooling(blocks, config, strides[level]))
        previous = width

    def decoder_level(level: int, channels: int) -> nn.Module:
        width, kernel = config.features[level], config.kernels[level]
        count = config.convs_of_decoder[level]
        if config.decoder_block == "residual":
            return residual_level(channels, width, config, blocks=count, kernel=kernel)
        return conv_level([channels, *[width] * count], config, kernel=kernel)

    return UNet(encoder, config, decoder_level=decoder_level, out_channels=out_channels)


def init_weights(module: nn.Module) -> None:
    """Kaiming-normal weights for a leaky ReLU of slope 0.01 and zero biases (He et al. 2015)."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
