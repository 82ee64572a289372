"""MONAI's networks, built from this package's options."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import UNETR, DynUNet, SegResNet, SwinUNETR, UNet

from ctseg_monai.options import SegResNetConfig, SwinUNETRConfig
from ctseg_monai.unet_options import DynUNetConfig, UNetConfig, UNETRConfig


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


def unet(config: UNetConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    """UNet with residual units, for patches [B, in, Z, Y, X] whose sides the strides divide."""
    network: torch.nn.Module = UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=config.channels,
        strides=config.strides_zyx,
        kernel_size=config.kernel_zyx,
        up_kernel_size=config.up_kernel_zyx,
        num_res_units=config.num_res_units,
        act=config.monai_activation,
        norm=config.monai_norm,
        dropout=config.dropout,
        bias=config.bias,
        adn_ordering=config.order,
    )
    return network


def dynunet(config: DynUNetConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    """DynUNet, nnU-Net's network in MONAI, for patches [B, in, Z, Y, X] whose sides the strides divide."""
    network: torch.nn.Module = DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=config.kernels_zyx,
        strides=((1, 1, 1), *config.strides_zyx),
        upsample_kernel_size=config.strides_zyx,
        filters=config.filters,
        dropout=config.dropout or None,
        norm_name=config.monai_norm,
        act_name=config.monai_activation,
        res_block=config.res_block,
        trans_bias=config.trans_bias,
    )
    _name_once(network, "skip_layers.")
    return network


def _name_once(network: torch.nn.Module, prefix: str) -> None:
    """Leave the names that begin so out of the state dict: they name tensors a second time."""
    state = network.state_dict(keep_vars=True)
    first = {id(tensor): key for key, tensor in state.items() if not key.startswith(prefix)}
    again = {key: first[id(tensor)] for key, tensor in state.items() if key.startswith(prefix)}

    def leave_out(_module: torch.nn.Module, found: dict[str, Any], at: str, _: Any) -> None:
        for key in again:
            found.pop(at + key, None)

    def put_back(_module: torch.nn.Module, found: dict[str, Any], at: str, *_: Any) -> None:
        for key, source in again.items():
            if at + source in found:
                found.setdefault(at + key, found[at + source])

    network.register_state_dict_post_hook(leave_out)
    network.register_load_state_dict_pre_hook(put_back)


def unetr(config: UNETRConfig, *, in_channels: int, out_channels: int) -> torch.nn.Module:
    """UNETR, a transformer encoder with a convolutional decoder, for patches of one size."""
    network: torch.nn.Module = UNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        img_size=config.tile_zyx,
        feature_size=config.feature_size,
        hidden_size=config.hidden_size,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        proj_type=config.projection,
        norm_name=("instance", {"affine": config.norm_affine}),
        conv_block=config.conv_block,
        res_block=config.res_block,
        dropout_rate=config.dropout,
        qkv_bias=config.qkv_bias,
    )
    for block in network.vit.blocks:  # registered by MONAI, and used by other networks only
        block.norm_cross_attn = torch.nn.Identity()
    return network
