"""MONAI's networks, built from this package's options."""

from __future__ import annotations

import torch
from monai.networks.nets import SegResNet, SwinUNETR

from ctseg_monai.options import SegResNetConfig, SwinUNETRConfig


def segresnet(config: SegResNetConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    """SegResNet for patches [B, in, Z, Y, X] whose sides its levels divide."""
    network: torch.nn.Module = SegResNet(
        spatial_dims=3,
        init_filters=config.init_filters,
        in_channels=in_channels,
        out_channels=out_channels,
        dropout_prob=config.dropout or None,
        norm=("GROUP", {"num_groups": config.num_groups}),
        num_groups=config.num_groups,
        blocks_down=config.blocks_down,
        blocks_up=config.blocks_up,
        upsample_mode=config.upsampling,
    )
    return network


def swinunetr(config: SwinUNETRConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    """Swin UNETR for patches [B, in, Z, Y, X] whose sides are multiples of 32."""
    network: torch.nn.Module = SwinUNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        feature_size=config.feature_size,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size,
        drop_rate=config.dropout,
        attn_drop_rate=config.attention_dropout,
        dropout_path_rate=config.drop_path,
        use_v2=config.use_v2,
        spatial_dims=3,
    )
    return network
