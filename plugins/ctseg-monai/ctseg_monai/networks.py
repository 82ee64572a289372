"""MONAI's networks, as a bundle names them with their arguments, as networks of this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ctseg.errors import BadInput
from ctseg_monai.layers import Zyx
from ctseg_monai.options import SegResNetConfig, SwinUNETRConfig
from ctseg_monai.unet_options import DynUNetConfig, UNetConfig, UNETRConfig

CLASSES = ("UNet", "Unet", "DynUNet", "DynUnet", "SegResNet", "SwinUNETR", "UNETR")
IGNORED = {
    "SwinUNETR": {"use_checkpoint", "img_size", "use_flash_attention"},
    "UNETR": {"save_attn"},
    "DynUNet": {"deep_supervision", "deep_supr_num"},
}
"""Arguments that change nothing in what a network predicts."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of this package.

    Attributes:
        architecture: its name in ctseg.
        config: its options.
        in_channels, out_channels: of the network.
    """

    architecture: str
    config: Any
    in_channels: int
    out_channels: int

    @property
    def options(self) -> dict[str, Any]:
        return dataclasses.asdict(self.config)


class Arguments:
    """The arguments of one network; each is taken once, and none may be left over."""

    def __init__(self, name: str, given: Mapping[str, Any], where: str) -> None:
        self.name, self.where = name, where
        self.left = {k: v for k, v in given.items() if k not in IGNORED.get(name, set())}

    def take(self, key: str, default: Any = None) -> Any:
        return self.left.pop(key, default)

    def need(self, key: str) -> Any:
        if key not in self.left:
            raise BadInput(f"{self.where}: the network {self.name} lacks its argument '{key}'.")
        return self.left.pop(key)

    def only(self, key: str, *known: Any) -> None:
        """Reject an argument with any value but these; the first one is MONAI's default."""
        value = self.left.pop(key, known[0])
        if value not in known:
            raise BadInput(
                f"{self.where}: the network {self.name} has {key} {value!r}, which has no counterpart here.",
                hint=f"Known: {', '.join(map(repr, known))}",
            )

    def done(self) -> None:
        if self.left:
            raise BadInput(
                f"{self.where}: the network {self.name} has the argument '{next(iter(self.left))}', which is not known "
                "here."
            )


def read_network(target: Mapping[str, Any], where: str) -> Network:
    """The network of a table with `_target_`.

    Raises:
        BadInput: a class or an argument without a counterpart here, by name.
    """
    dotted = target.get("_target_", target.get("_name_"))
    name = str(dotted).rsplit(".", 1)[-1]
    monais = str(dotted) == name or str(dotted).startswith("monai.networks.nets.")
    if name not in CLASSES or not monais:
        raise BadInput(
            f"{where} asks for the network '{dotted}'.",
            hint="Known are MONAI's UNet, DynUNet, SegResNet, SwinUNETR and UNETR for volumes.",
        )
    name = {"Unet": "UNet", "DynUnet": "DynUNet"}.get(name, name)
    given = {k: v for k, v in target.items() if not (k.startswith("_") and k.endswith("_"))}
    arguments = Arguments(name, given, where)
    dims = arguments.take("spatial_dims", 3)
    if dims != 3:
        raise BadInput(
            f"{where}: the network {name} is for {dims} dimensions; known are those for volumes.",
        )
    channels = {
        "in_channels": int(arguments.take("in_channels", 1)),
        "out_channels": int(arguments.take("out_channels", 2)),
    }
    architecture, config = _READERS[name](arguments)
    arguments.done()
    return Network(architecture, config, **channels)


def _unet(a: Arguments) -> tuple[str, UNetConfig]:
    channels = tuple(int(c) for c in a.need("channels"))
    return "monai_unet", UNetConfig(
        channels=channels,
        strides_zyx=_levels(a.need("strides"), len(channels) - 1),
        kernel_zyx=_three(a.take("kernel_size", 3)),
        up_kernel_zyx=_three(a.take("up_kernel_size", 3)),
        num_res_units=int(a.take("num_res_units", 0)),
        bias=bool(a.take("bias", True)),
        order=str(a.take("adn_ordering", "NDA")),
        dropout=_probability(a.take("dropout", 0.0)),
        **_norm(a, "norm", "instance"),
        **_activation(a, "act", "prelu"),
    )


def _dynunet(a: Arguments) -> tuple[str, DynUNetConfig]:
    strides = list(a.need("strides"))
    levels = len(strides)
    if _three(strides[0]) != (1, 1, 1):
        raise BadInput(f"{a.where}: DynUNet begins with a stride of {strides[0]}; known is 1.")
    rest = _levels(strides[1:], levels - 1)
    if _levels(a.need("upsample_kernel_size"), levels - 1) != rest:
        raise BadInput(f"{a.where}: upsample_kernel_size of DynUNet differs from its strides.")
    usual = [min(2 ** (5 + level), 320) for level in range(levels)]
    filters = [int(f) for f in a.take("filters") or usual]
    return "monai_dynunet", DynUNetConfig(
        filters=tuple(filters[:levels]),
        kernels_zyx=_levels(a.need("kernel_size"), levels),
        strides_zyx=rest,
        res_block=bool(a.take("res_block", False)),
        trans_bias=bool(a.take("trans_bias", False)),
        dropout=_probability(a.take("dropout") or 0.0),
        **_norm(a, "norm_name", ("instance", {"affine": True})),
        **_activation(a, "act_name", ("leakyrelu", {"negative_slope": 0.01})),
    )


def _segresnet(a: Arguments) -> tuple[str, SegResNetConfig]:
    groups = int(a.take("num_groups", 8))
    norm = a.take("norm", ("GROUP", {"num_groups": groups}))
    named = a.take("norm_name", "")
    kind, options = _pair(norm)
    if named and str(named).lower() == "group":
        kind, options = "group", {"num_groups": groups}
    if kind != "group" or str(named).lower() not in ("", "group"):
        raise BadInput(f"{a.where}: SegResNet has the norm {norm!r}; known is group.")
    if int(options.get("num_groups", groups)) != groups:
        raise BadInput(f"{a.where}: SegResNet has two numbers of groups.")
    if _pair(a.take("act", "relu"))[0] != "relu":
        raise BadInput(f"{a.where}: SegResNet has another activation than relu.")
    a.only("use_conv_final", True)
    down, up = a.take("blocks_down", (1, 2, 2, 4)), a.take("blocks_up", (1, 1, 1))
    return "monai_segresnet", SegResNetConfig(
        init_filters=int(a.take("init_filters", 8)),
        blocks_down=tuple(int(n) for n in down),
        blocks_up=tuple(int(n) for n in up),
        num_groups=groups,
        dropout=_probability(a.take("dropout_prob") or 0.0),
        upsampling=a.take("upsample_mode", "nontrainable"),
    )


def _swinunetr(a: Arguments) -> tuple[str, SwinUNETRConfig]:
    for key, usual in (
        ("patch_size", 2), ("qkv_bias", True), ("mlp_ratio", 4.0), ("norm_name", "instance"), ("normalize", True),
        ("patch_norm", False), ("downsample", "merging"), ("use_hyena", False),
    ):  # fmt: skip
        a.only(key, usual)
    window = a.take("window_size", 7)
    if isinstance(window, list) and len(set(window)) == 1:
        window = window[0]
    return "monai_swinunetr", SwinUNETRConfig(
        feature_size=int(a.take("feature_size", 24)),
        depths=tuple(a.take("depths", (2, 2, 2, 2))),
        num_heads=tuple(a.take("num_heads", (3, 6, 12, 24))),
        window_size=int(window),
        dropout=float(a.take("drop_rate", 0.0)),
        attention_dropout=float(a.take("attn_drop_rate", 0.0)),
        drop_path=float(a.take("dropout_path_rate", 0.0)),
        use_v2=bool(a.take("use_v2", False)),
    )


def _unetr(a: Arguments) -> tuple[str, UNETRConfig]:
    kind, options = _pair(a.take("norm_name", "instance"))
    if kind != "instance":
        raise BadInput(f"{a.where}: UNETR has the norm {kind}; known is instance.")
    return "monai_unetr", UNETRConfig(
        tile_zyx=_three(a.need("img_size")),
        feature_size=int(a.take("feature_size", 16)),
        hidden_size=int(a.take("hidden_size", 768)),
        mlp_dim=int(a.take("mlp_dim", 3072)),
        num_heads=int(a.take("num_heads", 12)),
        projection=a.take("proj_type", "conv"),
        norm_affine=bool(options.get("affine", False)),
        conv_block=bool(a.take("conv_block", True)),
        res_block=bool(a.take("res_block", True)),
        qkv_bias=bool(a.take("qkv_bias", False)),
        dropout=float(a.take("dropout_rate", 0.0)),
    )


_READERS = {
    "UNet": _unet, "DynUNet": _dynunet, "SegResNet": _segresnet, "SwinUNETR": _swinunetr, "UNETR": _unetr,
}  # fmt: skip


def _pair(value: Any) -> tuple[str, dict[str, Any]]:
    """A layer as MONAI takes it: a name, or a name and its arguments."""
    if isinstance(value, list | tuple):
        name, options = value if len(value) == 2 else (value[0], {})
        return str(name).lower(), dict(options)
    return str(value).lower(), {}


def _norm(a: Arguments, key: str, usual: Any) -> dict[str, Any]:
    kind, options = _pair(a.take(key, usual))
    known = {"affine", "num_groups", "eps"}
    if kind not in ("instance", "batch", "group") or set(options) - known:
        raise BadInput(f"{a.where}: the network {a.name} has the norm {kind!r} with {options}.")
    if float(options.get("eps", 1e-5)) != 1e-5:
        raise BadInput(f"{a.where}: the norm of {a.name} has eps {options['eps']}; known is 1e-5.")
    out: dict[str, Any] = {
        "norm": kind, "norm_affine": bool(options.get("affine", kind != "instance")),
    }  # fmt: skip
    if kind == "group":
        out["norm_groups"] = int(options["num_groups"])
    return out


def _activation(a: Arguments, key: str, usual: Any) -> dict[str, Any]:
    kind, options = _pair(a.take(key, usual))
    options.pop("inplace", None)
    slope = float(options.pop("negative_slope", 0.01))
    if options:
        raise BadInput(f"{a.where}: the activation {kind} of {a.name} has {options}.")
    return {"activation": kind, "slope": slope}


def _probability(value: Any) -> float:
    """Dropout as a number, or `["dropout", {"p": 0.1}]`."""
    if isinstance(value, list | tuple):
        return float(dict(value[1]).get("p", 0.5))
    return float(value)


def _three(value: int | Sequence[int]) -> Zyx:
    z, y, x = (value,) * 3 if isinstance(value, int) else (int(v) for v in value)
    return z, y, x


def _levels(values: Sequence[Any], count: int) -> tuple[Zyx, ...]:
    if len(values) < count:
        raise BadInput(f"{values} are numbers for {len(values)} levels; {count} are expected.")
    return tuple(_three(value) for value in values[:count])
