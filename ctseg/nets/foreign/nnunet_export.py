"""ctseg's U-Nets as nnU-Net v2's PlainConvUNet and ResidualEncoderUNet: options as plans, weights under its names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ctseg.nets.config import ResidualUNet3DConfig, UNet3DConfig
from ctseg.nets.foreign.network import ForeignNetwork
from ctseg.nets.foreign.nnunet import ACTIVATIONS, CLASSES, NORMS

if TYPE_CHECKING:
    import torch

MODULE = "dynamic_network_architectures.architectures.unet"
KNOWN = ("unet3d", "unet2d", "residual_unet3d", "residual_unet2d")
COMMON = {
    "downsampling": "strided", "upsampling": "transposed", "upsampling_keeps_width": False, "skip": "concat",
}  # fmt: skip
PLAIN = {"widen": "first"}
RESIDUAL = {"block": "basic", "decoder_block": "conv", "stem": True}
"""The options that nnU-Net's networks do not have, and the value that stands for what they do."""
USUAL = ("conv", "norm", "activation")
SWAPPED = ("conv", "activation", "norm")


def obstacles(network: ForeignNetwork) -> list[str]:
    """What keeps the network from being one of nnU-Net's, each in a few words; nothing where it is one."""
    if network.architecture not in KNOWN:
        return [f"the network {network.architecture}"]
    config = network.config
    due = COMMON | (RESIDUAL if _residual(network) else PLAIN)
    found = [f"{k} = {getattr(config, k)!r}" for k, v in due.items() if getattr(config, k) != v]
    if config.layers.norm not in NORMS.values():
        found.append(f"norm = {config.layers.norm!r}")
    if _order(network) not in ([USUAL] if _residual(network) else [USUAL, SWAPPED]):
        found.append(f"layer_order = {config.layer_order!r}")
    return found


def write_architecture(network: ForeignNetwork) -> dict[str, Any]:
    """The section `architecture` of a configuration of plans. Dropout, which matters in training only, is left out."""
    config, dims = network.config, 2 if network.slicewise else 3
    residual = isinstance(config, ResidualUNet3DConfig)
    activation = config.layers.activation
    nonlin: dict[str, Any] = {} if activation == "gelu" else {"inplace": True}
    if activation == "leaky_relu":
        nonlin["negative_slope"] = config.leaky_slope
    norm = {kind: name for name, kind in NORMS.items()}[config.layers.norm]
    kwargs: dict[str, Any] = {
        "n_stages": len(config.features),
        "features_per_stage": list(config.features),
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [list(kernel[3 - dims :]) for kernel in config.kernels],
        "strides": [[1] * dims, *(list(stride[3 - dims :]) for stride in config.strides)],
        **_counts(config),
        "n_conv_per_stage_decoder": list(config.convs_of_decoder[::-1]),
        "conv_bias": config.bias,
        "norm_op": _norm_class(norm, dims),
        "norm_op_kwargs": None if norm == "None" else {"eps": config.norm_eps, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": f"torch.nn.{ {kind: name for name, kind in ACTIVATIONS.items()}[activation] }",
        "nonlin_kwargs": nonlin,
    }
    if _order(network) == SWAPPED:
        kwargs["nonlin_first"] = True
    return {
        "network_class_name": f"{MODULE}.{CLASSES[residual]}",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def write_state(
    tensors: Mapping[str, torch.Tensor], network: ForeignNetwork
) -> dict[str, torch.Tensor]:
    """The weights under nnU-Net's names, which has most tensors several times.

    nnU-Net has a head at each level; those that the network lacks are zeros, which only further training would use.
    """
    out: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        flat = network.slicewise and tensor.ndim == 5
        value = tensor.squeeze(2) if flat else tensor
        for name in _names(key.removeprefix("net.") if network.slicewise else key, network):
            out[name] = value
    widths = network.config.features[-2::-1]
    for step, width in enumerate(widths):
        for part in ("weight", "bias"):
            name, finest = (f"decoder.seg_layers.{i}.{part}" for i in (step, len(widths) - 1))
            if name not in out:
                size = list(out[finest].shape)
                out[name] = out[finest].new_zeros([size[0], width, *size[2:]][: len(size)])
    encoder = {f"decoder.{name}": v for name, v in out.items() if name.startswith("encoder.")}
    return {**out, **encoder}


def _names(key: str, network: ForeignNetwork) -> list[str]:
    """nnU-Net's names of a tensor."""
    if match := re.fullmatch(r"upsamplers\.(\d+)\.conv\.(.+)", key):
        return [f"decoder.transpconvs.{match[1]}.{match[2]}"]
    if match := re.fullmatch(r"heads\.(\d+)\.(.+)", key):
        finest = len(network.config.features) - 2
        step = match[1] if network.config.deep_supervision else finest
        return [f"decoder.seg_layers.{step}.{match[2]}"]
    match = re.fullmatch(
        r"(en|de)coder\.(\d+)\.(\d+)\.(?:(first|second|shortcut)\.)?(conv|norm)\.(.+)", key
    )
    assert match is not None, key
    part, level, index, branch, layer, rest = match.groups()
    swapped = branch not in ("second", "shortcut") and _order(network) == SWAPPED
    place = 0 if layer == "conv" else 1 + swapped
    base = f"{_block(network, part, int(level), int(index), branch)}"
    return [f"{base}.{layer}.{rest}", f"{base}.all_modules.{place}.{rest}"]


def _block(
    network: ForeignNetwork, part: str, level: int, index: int, branch: str | None
) -> str:  # fmt: skip
    """nnU-Net's name of a convolution with its norm."""
    if part == "de":
        return f"decoder.stages.{level}.convs.{index}"
    if not _residual(network):
        return f"encoder.stages.{level}.0.convs.{index}"
    if branch is None:
        return "encoder.stem.convs.0"
    block = index - (level == 0)
    base = f"encoder.stages.{level}.blocks.{block}"
    if branch != "shortcut":
        return f"{base}.conv{1 if branch == 'first' else 2}"
    strided = level > 0 and block == 0 and max(network.config.strides[level - 1]) > 1
    return f"{base}.skip.{int(strided)}"


def _counts(config: UNet3DConfig | ResidualUNet3DConfig) -> dict[str, Any]:
    if isinstance(config, UNet3DConfig):
        return {"n_conv_per_stage": list(config.convs_of_encoder)}
    stem = {"stem_channels": config.stem_features} if config.stem_features else {}
    return {"n_blocks_per_stage": list(config.blocks), **stem}


def _norm_class(name: str, dims: int) -> str | None:
    if name == "None":
        return None
    return f"torch.nn.modules.{name.lower()}.{name}{dims}d"


def _residual(network: ForeignNetwork) -> bool:
    return network.architecture.startswith("residual_")


def _order(network: ForeignNetwork) -> Sequence[str]:
    """The layers of a block in prediction; a norm that there is none of stands where nnU-Net has it."""
    layers = network.config.layers
    roles = [role for role in layers.roles if role != "dropout"]
    if layers.norm == "none":
        return USUAL if [r for r in roles if r != "norm"] == ["conv", "activation"] else roles
    return tuple(roles)
