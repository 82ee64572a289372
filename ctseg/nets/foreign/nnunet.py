"""nnU-Net v2's PlainConvUNet and ResidualEncoderUNet: plans as options, weights under ctseg's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ctseg.errors import BadInput, ConfigError
from ctseg.nets.config import ResidualUNet3DConfig, UNet3DConfig
from ctseg.nets.foreign.network import ForeignNetwork, Rule, keys_of, rename
from ctseg.nets.layer_order import (
    ACTIVATION_LETTERS,
    DROPOUT_LETTERS,
    NORM_LETTERS,
    Activation,
    Norm,
)
from ctseg.specs import Zyx

if TYPE_CHECKING:
    import torch

CLASSES = ("PlainConvUNet", "ResidualEncoderUNet")
NORMS: dict[str, Norm] = {"InstanceNorm": "instance", "BatchNorm": "batch", "None": "none"}
ACTIVATIONS: dict[str, Activation] = {
    "LeakyReLU": "leaky_relu",
    "ReLU": "relu",
    "ELU": "elu",
    "GELU": "gelu",
    "SiLU": "silu",
}
KNOWN = {
    "n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage",
    "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin",
    "nonlin_kwargs", "deep_supervision", "nonlin_first", "block", "bottleneck_channels", "stem_channels",
    "input_channels", "num_classes",
}  # fmt: skip


@keys_of("the plans")
def read_plans(
    plans: Mapping[str, Any], configuration: str = "3d_fullres", *, deep_supervision: bool = True
) -> ForeignNetwork:
    """The network of a plans file in the new or the old format.

    nnU-Net turns every scan so that its coarsest axis comes first (`transpose_forward`). The network described here
    takes scans in the order z, y, x: kernels and strides are turned back, and `map_state` turns the weights.

    Args:
        plans: the content of `nnUNetPlans.json` or `plans.json`.
        configuration: e.g. `3d_fullres`, `3d_lowres`, `2d`.
        deep_supervision: keep the heads of the lower levels, which every nnU-Net has, for further training.

    Raises:
        BadInput: no such configuration, or a network without a counterpart in ctseg.
    """
    settings = configuration_of(plans, configuration)
    if "architecture" in settings:
        architecture = settings["architecture"]
        name, kwargs = architecture["network_class_name"], architecture["arch_kwargs"]
    else:
        name, kwargs = _old_format(settings)
    forward = tuple(int(axis) for axis in plans.get("transpose_forward", (0, 1, 2)))
    if sorted(forward) != [0, 1, 2]:
        raise BadInput(
            f"transpose_forward of the plans is {forward}; it must be an order of 0, 1, 2."
        )
    axes = (forward.index(0), forward.index(1), forward.index(2))
    return read_architecture(name, kwargs, axes=axes, deep_supervision=deep_supervision)


@keys_of("the arguments of the network")
def read_architecture(
    name: str,
    kwargs: Mapping[str, Any],
    *,
    axes: Zyx = (0, 1, 2),
    deep_supervision: bool = True,
) -> ForeignNetwork:
    """The network that a class and its arguments describe.

    Args:
        name: dotted name of the class, as `network_class_name` of the plans.
        kwargs: as `arch_kwargs` of the plans; classes as dotted names.
        axes: for each of ctseg's axes the foreign axis that corresponds to it.
        deep_supervision: see `read_plans`.

    Raises:
        BadInput: a class, argument or layer without a counterpart in ctseg.
    """
    kind = name.rsplit(".", 1)[-1]
    if kind not in CLASSES:
        raise BadInput(
            f"The plans ask for the network {name}.", hint=f"ctseg knows: {', '.join(CLASSES)}"
        )
    unknown = sorted(set(kwargs) - KNOWN)
    if unknown:
        raise BadInput(
            f"{kind} has the argument '{unknown[0]}', which has no counterpart in ctseg.",
            hint=f"Known: {', '.join(sorted(KNOWN))}",
        )
    if (_last(kwargs.get("block") or "BasicBlockD")) != "BasicBlockD" or kwargs.get(
        "bottleneck_channels"
    ):
        raise BadInput("Bottleneck blocks have no counterpart in ctseg.", hint="Use BasicBlockD.")
    levels = int(kwargs["n_stages"])
    slicewise = _last(kwargs["conv_op"]) == "Conv2d"
    if not slicewise and _last(kwargs["conv_op"]) != "Conv3d":
        raise BadInput(f"The convolution is {kwargs['conv_op']}.", hint="Known: Conv2d, Conv3d")
    strides = _axes(kwargs["strides"], levels, slicewise, axes)
    if strides[0] != (1, 1, 1):
        raise BadInput(
            f"The first stage has a stride of {strides[0]}; in ctseg the first level is at full resolution."
        )
    options: dict[str, Any] = {
        "features": _counts(kwargs["features_per_stage"], levels),
        "kernels_zyx": _axes(kwargs["kernel_sizes"], levels, slicewise, axes),
        "strides_zyx": strides[1:],
        "bias": bool(kwargs.get("conv_bias", False)),
        "decoder_convs": _counts(kwargs["n_conv_per_stage_decoder"], levels - 1)[::-1],
        "deep_supervision": deep_supervision,
        **_layers(kwargs),
    }
    channels = {
        "in_channels": kwargs.get("input_channels"),
        "out_channels": kwargs.get("num_classes"),
    }
    if kind == "PlainConvUNet":
        options["encoder_convs"] = _counts(kwargs["n_conv_per_stage"], levels)
        if slicewise:
            return _slicewise("unet2d", options, axes, channels)
        return ForeignNetwork("unet3d", UNet3DConfig(**options), axes=axes, **channels)
    options["blocks_per_level"] = _counts(kwargs["n_blocks_per_stage"], levels)
    options["stem_features"] = int(kwargs.get("stem_channels") or 0)
    if slicewise:
        return _slicewise("residual_unet2d", options, axes, channels)
    config = ResidualUNet3DConfig(**options)
    return ForeignNetwork("residual_unet3d", config, axes=axes, **channels)


def map_state(
    state: Mapping[str, torch.Tensor], network: ForeignNetwork
) -> dict[str, torch.Tensor]:
    """The weights (`network_weights` of a checkpoint) under ctseg's names, for strict loading.

    nnU-Net registers each layer several times; one of the equal tensors is used. Heads of lower levels are dropped
    if the options have no deep supervision.

    Raises:
        BadInput: a tensor of another network.
    """
    finest = len(network.config.features) - 2

    def head(step: str, rest: str) -> str | None:
        if network.config.deep_supervision:
            return f"heads.{step}.{rest}"
        return f"heads.0.{rest}" if int(step) == finest else None

    layer = r"(conv|norm|all_modules\.\d+)\.(.+)"
    rules: list[Rule] = [
        (r"decoder\.encoder\..+", lambda _: None),  # the encoder again
        (rf"encoder\.stem\.convs\.0\.{layer}", lambda m: f"encoder.0.0.{_layer(m[1])}.{m[2]}"),
        (
            rf"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.{layer}",
            lambda m: f"encoder.{m[1]}.{m[2]}.{_layer(m[3])}.{m[4]}",
        ),
        (
            rf"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv([12])\.{layer}",
            lambda m: f"{_block(m[1], m[2])}.{_branch(m[3])}.{_layer(m[4])}.{m[5]}",
        ),
        (
            rf"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.\d+\.{layer}",
            lambda m: f"{_block(m[1], m[2])}.shortcut.{_layer(m[3])}.{m[4]}",
        ),
        (r"decoder\.transpconvs\.(\d+)\.(.+)", lambda m: f"upsamplers.{m[1]}.conv.{m[2]}"),
        (
            rf"decoder\.stages\.(\d+)\.convs\.(\d+)\.{layer}",
            lambda m: f"decoder.{m[1]}.{m[2]}.{_layer(m[3])}.{m[4]}",
        ),
        (r"decoder\.seg_layers\.(\d+)\.(.+)", lambda m: head(m[1], m[2])),
    ]
    return rename(state, network, rules, owner="nnU-Net")


def channels(state: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Input and output channels of a network, read from its weights since plans do not give them.

    Raises:
        BadInput: weights without a first convolution or a head.
    """
    first = [
        tensor.shape[1]
        for key, tensor in state.items()
        if ".convs.0." in key
        and key.endswith(("conv.weight", "all_modules.0.weight"))
        and ("encoder.stem." in key or "encoder.stages.0." in key)
    ]
    heads = [t.shape[0] for key, t in state.items() if "seg_layers." in key and t.ndim > 1]
    if not first or not heads:
        raise BadInput(
            "These weights have no first convolution or no head of an nnU-Net.",
            hint="Pass the 'network_weights' of a checkpoint.",
        )
    return first[0], heads[-1]


def configuration_of(
    plans: Mapping[str, Any], name: str, *, heirs: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A configuration, including what it inherits.

    Args:
        heirs: configurations that inherit from it.

    Raises:
        BadInput: there is none of that name, or it inherits from itself.
    """
    known = plans.get("configurations", {})
    if name not in known or name in heirs:
        raise BadInput(
            f"The plans have no configuration '{name}'{' that does not inherit from itself' if heirs else ''}.",
            hint=f"They have: {', '.join(known) or 'none; is this a plans file?'}",
        )
    settings = dict(known[name])
    parent = settings.pop("inherits_from", None)
    if not parent:
        return settings
    return {**configuration_of(plans, parent, heirs=(*heirs, name)), **settings}


def with_batch_norm(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Plans whose network has batch norm instead of instance norm, as `nnUNetTrainerBN` builds it."""
    settings = configuration_of(plans, configuration)
    if "architecture" in settings:
        architecture = settings["architecture"]
        name, kwargs = architecture["network_class_name"], architecture["arch_kwargs"]
    else:
        name, kwargs = _old_format(settings)
    dims = _last(kwargs["conv_op"])[-2:]
    changed = {
        **kwargs, "norm_op": f"BatchNorm{dims}", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    }  # fmt: skip
    settings["architecture"] = {"network_class_name": name, "arch_kwargs": changed}
    return {**plans, "configurations": {configuration: settings}}


def _old_format(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Class and arguments from plans older than nnU-Net 2.5, which named neither layers nor their arguments."""
    kind = settings.get("UNet_class_name", "none")
    if kind not in CLASSES:
        raise BadInput(
            f"The plans ask for the network '{kind}'.", hint=f"ctseg knows: {', '.join(CLASSES)}"
        )
    dims = len(settings["conv_kernel_sizes"][0])
    convs = settings["n_conv_per_stage_encoder"]
    base, most = settings["UNet_base_num_features"], settings["unet_max_num_features"]
    return kind, {
        "n_stages": len(convs),
        "features_per_stage": [min(base * 2**level, most) for level in range(len(convs))],
        "conv_op": f"Conv{dims}d",
        "kernel_sizes": settings["conv_kernel_sizes"],
        "strides": settings["pool_op_kernel_sizes"],
        "n_conv_per_stage" if kind == CLASSES[0] else "n_blocks_per_stage": convs,
        "n_conv_per_stage_decoder": settings["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
    }


def _layers(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Normalisation, activation and dropout as options."""
    norm_name = _last(kwargs.get("norm_op"))
    norm = NORMS.get(norm_name[:-2] if norm_name.endswith("d") else norm_name)
    activation = ACTIVATIONS.get(_last(kwargs.get("nonlin")))
    if norm is None or activation is None:
        raise BadInput(
            f"The layers are {kwargs.get('norm_op')} and {kwargs.get('nonlin')}.",
            hint=f"Known: {', '.join(NORMS)}; {', '.join(ACTIVATIONS)}",
        )
    norm_kwargs = dict(kwargs.get("norm_op_kwargs") or {})
    if norm != "none" and not norm_kwargs.get("affine", norm == "batch"):
        raise BadInput("Its normalisation has no weights (affine is false); ctseg's always has.")
    if norm == "instance" and norm_kwargs.get("track_running_stats"):
        raise BadInput("Its instance norm keeps running statistics; ctseg's does not.")
    slope = (kwargs.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    dropped, dropout = "D", 0.0
    if kwargs.get("dropout_op") is not None:
        dropped = "d" if _last(kwargs["dropout_op"]) == "Dropout" else "D"
        dropout = float((kwargs.get("dropout_op_kwargs") or {}).get("p", 0.5))
    options: dict[str, Any] = {"dropout": dropout}
    if norm != "none":
        options["norm_eps"] = float(norm_kwargs.get("eps", 1e-5))
    if activation == "leaky_relu":
        options["leaky_slope"] = float(slope)
    last_two = [_letter(NORM_LETTERS, norm), _letter(ACTIVATION_LETTERS, activation)]
    if kwargs.get("nonlin_first"):
        last_two.reverse()
    elif not dropout or DROPOUT_LETTERS[dropped] == "channels":
        return {"norm": norm, "activation": activation, **options}
    if activation not in ACTIVATION_LETTERS.values():
        raise BadInput(f"Its layers have an order that ctseg does not know for {activation}.")
    return {"layer_order": "".join(["c", dropped if dropout else "", *last_two]), **options}


def _slicewise(
    architecture: str, options: dict[str, Any], axes: Zyx, channels: dict[str, Any]
) -> ForeignNetwork:
    from ctseg.nets.slicewise_config import ResidualUNet2DConfig, UNet2DConfig

    if axes[0] != 0:
        raise BadInput(
            "This 2D network works on slices across another axis than z.",
            hint="Import a 3D configuration of the same plans.",
        )
    kind = UNet2DConfig if architecture == "unet2d" else ResidualUNet2DConfig
    return ForeignNetwork(architecture, kind(**options), axes=axes, **channels)


def _last(dotted: Any) -> str:
    """The last part of the name of a class, or of the class itself."""
    return getattr(dotted, "__name__", str(dotted)).rsplit(".", 1)[-1]


def _letter(letters: Mapping[str, str], kind: str) -> str:
    return next((letter for letter, name in letters.items() if name == kind), "")


def _counts(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    numbers = (value,) * count if isinstance(value, int) else tuple(int(v) for v in value)
    if len(numbers) != count:
        raise ConfigError(f"The plans give {value} where {count} numbers are expected.")
    return numbers


def _axes(value: Any, count: int, slicewise: bool, axes: Zyx) -> tuple[Zyx, ...]:
    """Kernels or strides of every level, in the order of ctseg's axes."""
    levels = [value] * count if isinstance(value, int) else list(value)
    if len(levels) != count:
        raise ConfigError(f"The plans give {value} where {count} levels are expected.")
    dims = 2 if slicewise else 3
    triples: list[Zyx] = []
    for level in levels:
        sizes = [level] * dims if isinstance(level, int) else [int(v) for v in level]
        if len(sizes) != dims:
            raise ConfigError(f"The plans give {level} where {dims} numbers are expected.")
        sizes = [1, *sizes] if slicewise else sizes
        triples.append((sizes[axes[0]], sizes[axes[1]], sizes[axes[2]]))
    return tuple(triples)


def _layer(name: str) -> str:
    """ctseg's name of a layer: the first is the convolution, the only other one with weights is the norm."""
    return {"conv": "conv", "norm": "norm", "all_modules.0": "conv"}.get(name, "norm")


def _block(level: str, index: str) -> str:
    """ctseg's name of a residual block; the first level begins with the stem."""
    return f"encoder.{level}.{int(index) + (level == '0')}"


def _branch(number: str) -> str:
    return "first" if number == "1" else "second"
