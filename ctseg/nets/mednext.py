"""`mednext`: depthwise convolutions and wide 1x1x1 layers in a U-Net (Roy et al., MICCAI 2023, arXiv:2303.09975).

Kernels and strides are set for each level and axis, as in the other U-Nets.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from ctseg.nets.blocks import NO_STRIDE
from ctseg.nets.mednext_config import MedNeXtConfig
from ctseg.nets.norm import InstanceNorm
from ctseg.specs import Zyx


class Block(nn.Module):
    """A depthwise convolution, each channel's own norm, a wide layer with GELU, a narrow one; beside a shortcut.

    Args:
        expansion: how much wider the middle is than the input.
        stride: downsampling, or upsampling with `up`; the shortcut then is a strided 1x1x1 convolution.
        up: whether the block upsamples.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        *,
        expansion: int,
        kernel: Zyx,
        stride: Zyx = NO_STRIDE,
        up: bool = False,
    ) -> None:
        super().__init__()
        before, after = channels
        convolution = nn.ConvTranspose3d if up else nn.Conv3d
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.depthwise = convolution(before, before, kernel, stride, padding, groups=before)
        self.norm = InstanceNorm(before)
        self.widen = nn.Conv3d(before, expansion * before, 1)
        self.narrow = nn.Conv3d(expansion * before, after, 1)
        same = stride == NO_STRIDE and before == after
        self.shortcut = nn.Identity() if same else convolution(before, after, 1, stride)
        z, y, x = (factor - 1 for factor in stride)
        self.pad = (x, 0, y, 0, z, 0) if up and stride != NO_STRIDE else None
        """What a transposed convolution of an odd kernel lacks to the full size, added before the first voxels."""

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor:
        """[B, before, Z, Y, X] to [B, after, ...] of the size that the stride makes."""
        y = self.narrow(functional.gelu(self.widen(self.norm(self.depthwise(x_bczyx)))))
        shortcut: torch.Tensor = self.shortcut(x_bczyx)
        if self.pad is not None:
            y, shortcut = functional.pad(y, self.pad), functional.pad(shortcut, self.pad)
        total: torch.Tensor = y + shortcut
        return total


class MedNeXt(nn.Module):
    """Blocks at each level, blocks that change the resolution between them, and skips that are added."""

    def __init__(self, config: MedNeXtConfig, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        features, kernels, widening = config.features, config.kernels, config.widening
        self.stem = nn.Conv3d(in_channels, features[0], 1)
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        self.up, self.decoder, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

        def level(number: int) -> nn.Sequential:
            width, expansion, kernel = features[number], widening[number], kernels[number]
            return nn.Sequential(
                *(
                    Block((width, width), expansion=expansion, kernel=kernel)
                    for _ in range(config.blocks[number])
                )
            )

        for number, stride in enumerate(config.strides):
            width, below = features[number], features[number + 1]
            between = partial(
                Block, expansion=widening[number], kernel=kernels[number], stride=stride
            )
            self.encoder.append(level(number))
            self.down.append(between((width, below)))
            self.up.append(between((below, width), up=True))
            self.decoder.append(level(number))
        self.encoder.append(level(len(features) - 1))
        for width in features if config.deep_supervision else features[:1]:
            self.heads.append(nn.Conv3d(width, out_channels, 1))

    def forward(self, x_bczyx: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits [B, out_channels, Z, Y, X]; a tuple of them (finest first) in deeply supervised training."""
        y = self.stem(x_bczyx)
        skips: list[torch.Tensor] = []
        for blocks, down in zip(self.encoder, self.down, strict=False):
            y = blocks(y)
            skips.append(y)
            y = down(y)
        y = self.encoder[-1](y)
        every_level = self.training and len(self.heads) > 1
        outputs = [self.heads[-1](y)] if every_level else []
        for number in reversed(range(len(skips))):
            y = self.decoder[number](self.up[number](y) + skips.pop())
            if every_level or number == 0:
                outputs.insert(0, self.heads[number](y))
        return tuple(outputs) if every_level else outputs[0]


def mednext(config: MedNeXtConfig, *, in_channels: int, out_channels: int) -> nn.Module:
    """The network; its weights begin as PyTorch's layers do, as in the paper."""
    return MedNeXt(config, in_channels=in_channels, out_channels=out_channels)
