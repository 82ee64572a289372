"""pytorch-3dunet's UNet3D, ResidualUNet3D, ResidualUNetSE3D and 2D twins: settings as options, renamed weights."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from ctseg.errors import BadInput
from ctseg.nets.config import ResidualUNet3DConfig, ResidualUNetSE3DConfig, UNet3DConfig
from ctseg.nets.foreign.network import ForeignNetwork, Rule, keys_of, rename

if TYPE_CHECKING:
    import torch

LEVELS = {
    "UNet3D": 4, "UNet2D": 4, "ResidualUNet3D": 5, "ResidualUNet2D": 5, "ResidualUNetSE3D": 5,
}  # fmt: skip
ARCHITECTURES = {
    "ResidualUNet3D": "residual_unet3d",
    "ResidualUNet2D": "residual_unet2d",
    "ResidualUNetSE3D": "residual_unet_se3d",
}
INTERPOLATIONS = {
    "default": "nearest",
    "nearest": "nearest",
    "area": "nearest",
    "trilinear": "trilinear",
}
BLOCK_DROPOUT = 0.1
"""Dropout of its residual blocks, which ignore `dropout_prob`."""


@keys_of("the section `model` of the configuration")
def read_config(model: Mapping[str, Any]) -> ForeignNetwork:
    """The network that the section `model` of its configuration describes.

    Settings that its networks ignore (`conv_kernel_size`, `pool_kernel_size`, ...) are ignored here, too.

    Raises:
        BadInput: a network without a counterpart in ctseg, or settings with which pytorch-3dunet itself fails.
    """
    name = model.get("name", "UNet3D")
    if name not in LEVELS:
        raise BadInput(
            f"The configuration asks for the network '{name}'.",
            hint=f"ctseg knows: {', '.join(LEVELS)}",
        )
    padding = model.get("conv_padding", 1)
    if padding not in (1, [1, 1, 1], (1, 1, 1)):
        raise BadInput(
            f"conv_padding is {padding}; convolutions in ctseg keep the size of their input.",
            hint="Only networks with conv_padding 1 have a counterpart.",
        )
    f_maps = model.get("f_maps", 64)
    if isinstance(f_maps, int):
        f_maps = [f_maps * 2**level for level in range(model.get("num_levels", LEVELS[name]))]
    features = tuple(int(width) for width in f_maps)
    in_channels = int(model["in_channels"])
    layers = _layers(model, residual=name.startswith("Residual"))
    common = {"features": features, "downsampling": "max", **layers}
    if name.startswith("Residual"):
        config = _residual(name, model, common, features)
        return ForeignNetwork(ARCHITECTURES[name], config, **_ends(model))
    common |= _plain(model, features, in_channels)
    if name == "UNet2D":
        from ctseg.nets.slicewise_config import UNet2DConfig

        return ForeignNetwork("unet2d", UNet2DConfig(**common), **_ends(model))
    return ForeignNetwork("unet3d", UNet3DConfig(**common), **_ends(model))


def map_state(
    state: Mapping[str, torch.Tensor], network: ForeignNetwork
) -> dict[str, torch.Tensor]:
    """The weights (`model_state_dict` of a checkpoint) under ctseg's names, for strict loading.

    Raises:
        BadInput: a tensor of another network, or of the residual block of an older version.
    """
    single = r"(conv|groupnorm|batchnorm)\.(.+)"
    rules: list[Rule] = [
        (
            rf"(en|de)coders\.(\d+)\.basic_module\.SingleConv(\d)\.{single}",
            lambda m: f"{m[1]}coder.{m[2]}.{int(m[3]) - 1}.{_layer(m[4])}.{m[5]}",
        ),
        (
            r"(en|de)coders\.(\d+)\.basic_module\.conv1\.(weight|bias)",
            lambda m: f"{m[1]}coder.{m[2]}.0.projection.{m[3]}",
        ),
        (
            rf"(en|de)coders\.(\d+)\.basic_module\.conv([23])\.{single}",
            lambda m: f"{m[1]}coder.{m[2]}.0.{_branch(m[3])}.{_layer(m[4])}.{m[5]}",
        ),
        (
            r"(en|de)coders\.(\d+)\.basic_module\.se_module\.(.+)",
            lambda m: f"{m[1]}coder.{m[2]}.0.excitation.{_excitation(m[3])}",
        ),
        (
            r"decoders\.(\d+)\.upsampling\.upsample\.conv_transposed\.weight",
            lambda m: f"upsamplers.{m[1]}.conv.weight",
        ),
        (r"final_conv\.(.+)", lambda m: f"heads.0.{m[1]}"),
    ]
    named = rename(state, network, rules, owner="pytorch-3dunet")
    if network.config.bias:  # its transposed convolutions never have one
        for key in [k for k in named if "upsamplers." in k and k.endswith("weight")]:
            named[key.replace("weight", "bias")] = named[key].new_zeros(named[key].shape[1])
    return named


def _ends(model: Mapping[str, Any]) -> dict[str, Any]:
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    if model.get("is_segmentation", True):
        activation = "sigmoid" if model.get("final_sigmoid", True) else "softmax"
    return {
        "in_channels": int(model["in_channels"]),
        "out_channels": int(model["out_channels"]),
        "activation": activation,
    }


def _layers(model: Mapping[str, Any], *, residual: bool) -> dict[str, Any]:
    """Layer order, groups, bias and dropout as options."""
    order = model.get("layer_order", "gcr")
    dropout = model.get("dropout_prob", 0.1)
    each = (
        tuple(map(float, dropout)) if isinstance(dropout, list | tuple) else (float(dropout),) * 2
    )
    if residual:
        each = (BLOCK_DROPOUT,) * 2
    if not set("dD") & set(order):
        each = (0.0, 0.0)
    elif not any(each):
        order = order.replace("d", "").replace("D", "")
    options: dict[str, Any] = {
        "layer_order": order,
        "norm_groups": int(model.get("num_groups") or 8),
        "bias": not set("gb") & set(order),
        "dropout": max(each),
    }
    if each[0] != each[1]:
        options["dropouts"] = each
    return options


def _plain(model: Mapping[str, Any], features: tuple[int, ...], in_channels: int) -> dict[str, Any]:
    """The options that only networks of double convolutions have."""
    upsample = model.get("upsample", "default")
    narrowing = any(wide > narrow for wide, narrow in pairwise((in_channels, *features)))
    widen = "first" if model.get("conv_upscale", 2) == 1 else "gradual"
    if widen == "first" and narrowing:
        raise BadInput(f"With conv_upscale 1, f_maps {features} must not narrow anywhere.")
    options = {"widen": widen, "skip": "concat_skip_first"}
    if upsample == "deconv":
        _check_doubling(features)
        return {**options, "upsampling": "transposed_overlap"}
    if upsample not in INTERPOLATIONS:
        raise BadInput(
            f"upsample is '{upsample}', with which it cannot run on volumes.",
            hint=f"Known: deconv, {', '.join(INTERPOLATIONS)}",
        )
    mode = INTERPOLATIONS[upsample]
    return {**options, "upsampling": mode, "upsampling_keeps_width": True}


def _residual(
    name: str, model: Mapping[str, Any], common: dict[str, Any], features: tuple[int, ...]
) -> ResidualUNet3DConfig:
    upsample = model.get("upsample", "default")
    if upsample not in ("default", "deconv"):
        raise BadInput(
            f"upsample is '{upsample}', with which {name} cannot run.",
            hint="Known for it: default, deconv",
        )
    if upsample == "deconv":
        _check_doubling(features)
    options = {
        **common,
        "block": "projected",
        "decoder_block": "residual",
        "blocks_per_level": (1,) * len(features),
        "stem": False,
        "upsampling": "transposed_overlap",
        "skip": "sum" if upsample == "default" else "concat_skip_first",
    }
    if name == "ResidualUNet2D":
        from ctseg.nets.slicewise_config import ResidualUNet2DConfig

        return ResidualUNet2DConfig(**options)
    if "SE" not in name:
        return ResidualUNet3DConfig(**options)
    return ResidualUNetSE3DConfig(
        **options,
        excitation="concurrent",
        excitation_reduction=1,
        excitation_place="output",
    )


def _check_doubling(features: tuple[int, ...]) -> None:
    if any(2 * finer != coarser for finer, coarser in pairwise(features)):
        raise BadInput(
            f"With upsample 'deconv', f_maps must double from level to level, not {features}."
        )


def _layer(name: str) -> str:
    return "conv" if name == "conv" else "norm"


def _branch(number: str) -> str:
    return "first" if number == "2" else "second"


def _excitation(rest: str) -> str:
    """ctseg's name within a channel, spatial or concurrent excitation."""
    for theirs, ours in (
        ("cSE.", "channel."),
        ("sSE.", "spatial."),
        ("fc1.", "down."),
        ("fc2.", "up."),
    ):
        rest = rest.replace(theirs, ours)
    return rest
