"""Encoders of timm: their feature maps, and pretrained weights from a local file. Nothing is ever downloaded."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ctseg.errors import BadInput, ConfigError, FileProblem, UnknownName, first_line
from ctseg.nets.timm_import import timm

FAMILIES = "resnet, regnet, efficientnet, convnext, densenet, mobilenetv3, ..."
# Settings by which timm finds weights to download: emptied, so that it uses only what it is passed.
_NO_SOURCE: Mapping[str, Any] = {
    "url": "", "file": None, "hf_hub_id": None, "source": "", "label_offset": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """The feature maps of an encoder, from the finest down.

    Attributes:
        channels: number of channels of each map.
        reductions: how many times smaller than the image each map is.
    """

    channels: tuple[int, ...]
    reductions: tuple[int, ...]


def check_name(name: str) -> None:
    """Refuse names that timm does not know, and names that make timm download.

    Raises:
        UnknownName: the name is unknown; the message suggests the nearest one.
    """
    known = timm().list_models()
    if name.split(".")[0] not in known:
        raise UnknownName("encoder", name, known, listing="timm.list_models()")


@functools.cache
def describe(name: str, levels: int) -> Encoder:
    """The feature maps of an encoder, measured by building it and running it on a small image.

    Args:
        name: name of a network in timm.
        levels: number of maps in use, from the finest; 0 takes all.

    Raises:
        UnknownName: no such network.
        ConfigError: the encoder has no pyramid of feature maps, or fewer levels.
    """
    check_name(name)
    most = len(describe(name, 0).channels) if levels else 0
    if levels > most:
        raise ConfigError(
            f"The encoder '{name}' has {most} levels; timm_unet.levels asks for {levels}.",
            hint=f"Use {most} or fewer, or 0 for all",
        )
    # measured on real values, without changing the weights drawn later
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            net = _build(name, levels)
        except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
            raise _unusable(name, f"it gives no feature maps ({error})") from error
    channels, reductions = net.feature_info.channels(), net.feature_info.reduction()
    if any(fine >= coarse or coarse % fine for fine, coarse in itertools.pairwise(reductions)):
        raise _unusable(name, f"its feature maps are {reductions} times smaller, no pyramid")
    side = 2 * reductions[-1]
    try:
        maps = net(torch.zeros(2, 3, side, side, device="cpu"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _unusable(name, f"it takes images of one size only ({error})") from error
    shapes = [tuple(one.shape[1:]) for one in maps]
    if shapes != [(c, side // r, side // r) for c, r in zip(channels, reductions, strict=True)]:
        raise _unusable(name, f"its feature maps are {shapes} for an image of {side} pixels")
    torch.stack([one.float().mean() for one in maps]).sum().backward()  # type: ignore[no-untyped-call]
    idle = [key for key, parameter in net.named_parameters() if parameter.grad is None]
    if idle:  # they would never be trained, and data-parallel training waits for their gradients
        raise _unusable(name, f"its feature maps do not depend on {idle[0]}")
    return Encoder(tuple(channels), tuple(reductions))


def _build(name: str, levels: int, **options: Any) -> Any:
    """timm's encoder; one that is cut to some levels drops the layers below them."""
    if levels:
        options |= {"out_indices": tuple(range(levels)), "feature_cls": "getter"}
    return timm().create_model(name, features_only=True, **options)


def _unusable(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"The encoder '{name}' cannot be used in a U-Net: {why}.",
        hint=f"Use a convolutional one: {FAMILIES}",
    )


def make_encoder(name: str, levels: int, *, in_channels: int, weights: str = "") -> torch.nn.Module:
    """An encoder that returns its feature maps, from the finest down.

    Args:
        in_channels: channels of the image; a pretrained first convolution is adapted to them as timm does (summed for
            one channel, else repeated and scaled).
        weights: local safetensors file of the whole network, as timm publishes it; empty for random weights.

    Raises:
        ConfigError: weights of another network, or a file of another format.
        FileProblem: the file is missing or cannot be read.
    """
    describe(name, levels)  # raises for encoders that cannot be used
    options: dict[str, Any] = {"in_chans": in_channels}
    if weights:
        tensors = read_encoder_weights(weights)
        _check_fit(name, tensors, weights, options)
        overlay = {**_NO_SOURCE, "state_dict": dict(tensors)}
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    encoder: torch.nn.Module = _build(name, levels, **options)
    for note in ("pretrained_cfg", "default_cfg"):  # they keep references to the tensors
        if hasattr(encoder, note):
            setattr(encoder, note, {})
    return encoder


def read_encoder_weights(weights: str) -> dict[str, torch.Tensor]:
    """The tensors of a local safetensors file. Pickled files are never opened.

    Raises:
        ConfigError: the name does not end in .safetensors.
        FileProblem: missing, or not a complete safetensors file.
    """
    path = weights_path(weights)
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileProblem(f"{path} is no whole safetensors file: {first_line(error)}.") from error
    if not tensors:
        raise BadInput(f"{path} holds no tensors.")
    return tensors


def weights_path(weights: str) -> Path:
    """The file of weights, checked to exist.

    Raises:
        ConfigError: the name does not end in .safetensors.
        FileProblem: missing.
    """
    path = Path(weights).expanduser()
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"The encoder's weights {path} are no .safetensors file, the only format that ctseg reads.",
            hint="timm publishes model.safetensors for its networks; pickled files can hold programs.",
        )
    if not path.is_file():
        raise FileProblem(
            f"There is no file {path} with the encoder's weights; they are never downloaded.",
            hint="Fetch the network's model.safetensors yourself, or leave encoder_weights empty.",
        )
    return path


def _check_fit(
    name: str, tensors: Mapping[str, torch.Tensor], weights: str, options: Mapping[str, Any]
) -> None:
    """Load the file into the whole network, strictly: for feature maps alone timm ignores missing tensors."""
    bare = timm().create_model(name, num_classes=0, pretrained=False)
    cfg = dict(getattr(bare, "pretrained_cfg", {}))
    heads = cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    classes = next((len(tensors[f"{h}.weight"]) for h in heads if f"{h}.weight" in tensors), 0)
    overlay = {**_NO_SOURCE, "state_dict": dict(tensors), "num_classes": classes}
    try:
        timm().create_model(
            name, num_classes=classes, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except (RuntimeError, KeyError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"The weights in {weights} are not those of the encoder '{name}': {' '.join(lines[:3])[:300]}",
            hint="Name the network that the file belongs to: --set model.options.encoder=NAME",
        ) from error
