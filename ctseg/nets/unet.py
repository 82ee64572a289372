"""`unet3d` and `residual_unet3d`: one U, two encoders (Isensee et al. 2021 and 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ctseg.nets.blocks import LEAKY_SLOPE, ConvNormAct, ResidualBlock, Upsample
from ctseg.nets.config import ResidualUNet3DConfig, UNet3DConfig
from ctseg.specs import Zyx


class UNet(nn.Module):
    """An encoder, a decoder with a skip at each level, and 1x1x1 heads.

    Args:
        encoder: one module a level, from full resolution down, `config.features[i]` channels wide.
        decoder_convs: convolutions at each decoder level.
        out_channels: channels of the logits.
    """

    def __init__(
        self,
        encoder: Sequence[nn.Module],
        config: UNet3DConfig | ResidualUNet3DConfig,
        *,
        decoder_convs: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        features, kernels, strides = config.features, config.kernels, config.strides
        self.concat = config.skip == "concat"
        self.encoder = nn.ModuleList(encoder)
        self.upsamplers, self.decoder, self.heads = (
            nn.ModuleList(),
            nn.ModuleList(),
            nn.ModuleList(),
        )
        for level in reversed(range(len(features) - 1)):
            width = features[level]
            self.upsamplers.append(
                Upsample(features[level + 1], width, config, stride=strides[level])
            )
            joined = 2 * width if self.concat else width
            self.decoder.append(
                conv_level(joined, width, config, convs=decoder_convs, kernel=kernels[level])
            )
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
            y, skip = upsample(y), skips.pop()
            y = level(torch.cat((y, skip), 1) if self.concat else y + skip)
            if every_level:
                outputs.append(self.heads[step](y))
        return tuple(reversed(outputs)) if every_level else self.heads[-1](y)


def conv_level(
    in_channels: int,
    out_channels: int,
    config: UNet3DConfig | ResidualUNet3DConfig,
    *,
    convs: int,
    kernel: Zyx,
    stride: Zyx = (1, 1, 1),
) -> nn.Sequential:
    """A level of plain convolutions; the first one changes width and resolution."""
    first = ConvNormAct(in_channels, out_channels, config, kernel=kernel, stride=stride)
    rest = [
        ConvNormAct(out_channels, out_channels, config, kernel=kernel) for _ in range(convs - 1)
    ]
    return nn.Sequential(first, *rest)


def unet3d(config: UNet3DConfig, *, in_channels: int, out_channels: int) -> nn.Module:
    """The U-Net of plain convolutions."""
    widths = (in_channels, *config.features)
    strides = ((1, 1, 1), *config.strides)
    encoder = [
        conv_level(
            widths[level],
            widths[level + 1],
            config,
            convs=config.convs_per_level,
            kernel=config.kernels[level],
            stride=strides[level],
        )
        for level in range(len(config.features))
    ]
    return UNet(encoder, config, decoder_convs=config.convs_per_level, out_channels=out_channels)


def residual_unet3d(
    config: ResidualUNet3DConfig, *, in_channels: int, out_channels: int
) -> nn.Module:
    """The U-Net with a residual encoder: a stem, then blocks, the first of each level strided."""
    stem = ConvNormAct(in_channels, config.features[0], config, kernel=config.kernels[0])
    strides = ((1, 1, 1), *config.strides)
    encoder: list[nn.Module] = []
    previous = config.features[0]
    for level, width in enumerate(config.features):
        kernel = config.kernels[level]
        first = ResidualBlock(previous, width, config, kernel=kernel, stride=strides[level])
        rest = [
            ResidualBlock(width, width, config, kernel=kernel)
            for _ in range(config.blocks[level] - 1)
        ]
        encoder.append(nn.Sequential(*([stem] if level == 0 else []), first, *rest))
        previous = width
    convs = config.decoder_convs_per_level
    return UNet(encoder, config, decoder_convs=convs, out_channels=out_channels)


def init_weights(module: nn.Module) -> None:
    """Kaiming-normal weights for a leaky ReLU of slope 0.01 and zero biases (He et al. 2015)."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
