"""pytorch-3dunet: a checkpoint and the configuration that it was trained or predicts with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import ctseg
from ctseg import plugins
from ctseg.card import Card, Provider, Source, TrainingData
from ctseg.config import LabelConfig, PredictConfig, PreprocessConfig, TaskConfig
from ctseg.data.steps import step_to_dict
from ctseg.errors import BadInput, FileProblem
from ctseg.importer_specs import ImportedModel, ImportedWeights
from ctseg.nets.foreign import pytorch3dunet as networks
from ctseg.nets.foreign.network import ForeignNetwork, keys_of
from ctseg.specs import TaskKind, Zyx
from ctseg.zoo.importers.checkpoint import read_checkpoint, state_of
from ctseg.zoo.importers.fitting import check_weights, understood
from ctseg.zoo.importers.pytorch3dunet_steps import steps_of
from ctseg.zoo.names import plain_name

LARGEST_CONFIG = 2**22
KINDS: Mapping[str | None, TaskKind] = {
    "softmax": "classes", "sigmoid": "channels", "none": "regression",
}  # fmt: skip


def recognise(path: Path) -> bool:  # noqa: ARG001 - as every importer has it
    """Never: a model is two files, and a checkpoint alone does not say what it is."""
    return False


def read(
    paths: Sequence[Path], *, labels: str | None = None, channels: str | None = None
) -> ImportedModel:
    """The model of a checkpoint and its configuration.

    Args:
        paths: the checkpoint (`best_checkpoint.pytorch`), and the configuration as YAML.
        labels: names of what the network predicts with commas between; the background first where its activation is
            softmax.
        channels: names of the scan's channels.

    Raises:
        BadInput: something that has no counterpart here, by name.
    """
    if len(paths) != 2:
        raise BadInput(
            f"pytorch3dunet reads a checkpoint and a configuration; {len(paths)} paths are given.",
            hint="ctseg zoo import pytorch3dunet best_checkpoint.pytorch config.yaml",
        )
    checkpoint, config = paths
    if not checkpoint.is_file():
        raise FileProblem(f"The checkpoint {checkpoint} does not exist.", hint="Check the path.")
    settings = _settings(config)
    with understood(f"the configuration {config}"):
        return _described(checkpoint, config, settings, labels, channels)


@keys_of("the configuration")
def _described(
    checkpoint: Path, config: Path, settings: Mapping[str, Any], labels: str | None, channels: str | None
) -> ImportedModel:  # fmt: skip
    network = networks.read_config(settings["model"])
    content = read_checkpoint(checkpoint)
    state = state_of(content.get("model_state_dict", content), name=str(checkpoint))
    assert network.in_channels is not None
    assert network.out_channels is not None
    tensors = networks.map_state(state, network)
    check_weights(network, tensors, (network.in_channels, network.out_channels), str(checkpoint))
    task = _task(network, labels)
    steps, left_out = steps_of(settings)
    predict, seen = _tiles(settings, network)
    names = _names(channels, network.in_channels, "channel", "--option channels=")
    plugin = plugins.registry().get("architecture", network.architecture).plugin
    name = checkpoint.resolve().parent.name
    card = Card(
        card_version=2,
        summary=f"{settings['model'].get('name', 'UNet3D')} of pytorch-3dunet",
        architecture=network.architecture,
        options=network.options,
        provider=Provider(package=plugin.package, version=plugin.version),
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        channels=names,
        task=task,
        preprocess=PreprocessConfig(steps=tuple(step_to_dict(step) for step in steps)),
        predict=predict,
        training_data=TrainingData(name=name),
        source=Source(
            importer="pytorch3dunet",
            name=checkpoint.name,
            details={"configuration": config.name, "network": settings["model"].get("name", "UNet3D")},
            files_sha256={checkpoint.name: hashlib.sha256(checkpoint.read_bytes()).hexdigest()},
            left_out=(*left_out, *seen),
        ),
        ctseg_version=ctseg.__version__,
    )  # fmt: skip
    assert card.source is not None
    notes = tuple(f"Not taken over: {what}." for what in card.source.left_out)
    return ImportedModel(
        card, [ImportedWeights("weights", tensors)], plain_name(name, "model"), notes
    )


def _settings(path: Path) -> Mapping[str, Any]:
    """The configuration: plain YAML, none of whose tags makes an object."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise FileProblem(f"{path} is far too large for a configuration.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileProblem(f"The configuration {path} cannot be read: {error}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise BadInput(f"The configuration {path} is no plain YAML: {line}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise BadInput(
            f"The configuration {path} has no section 'model'.",
            hint="Is it a configuration of pytorch-3dunet, such as train_config.yaml?",
        )
    return content


def _task(network: ForeignNetwork, labels: str | None) -> TaskConfig:
    kind = KINDS[network.activation]
    assert network.out_channels is not None
    first = "background" if kind == "classes" else None
    names = _names(labels, network.out_channels, "label", "--option labels=", first)
    start = 0 if kind == "classes" else 1
    return TaskConfig(
        kind=kind,
        labels=tuple(
            LabelConfig(name=name, values=(number,), value=number)
            for number, name in enumerate(names, start=start)
        ),
    )


def _names(
    text: str | None, count: int, what: str, option: str, first: str | None = None
) -> tuple[str, ...]:
    if text is None:
        names = (
            [f"{what}_{i}" for i in range(count)]
            if first
            else [f"{what}_{i + 1}" for i in range(count)]
        )
        return (first, *names[1:]) if first else tuple(names)
    found = tuple(name.strip() for name in text.split(","))
    if len(found) != count or len(set(found)) < count or not all(found):
        raise BadInput(
            f"{text!r} names {len(found)} {what}s; the network has {count}.",
            hint=f"Name each once: {option}a,b",
        )
    return found


def _tiles(settings: Mapping[str, Any], network: ForeignNetwork) -> tuple[PredictConfig, list[str]]:
    """The patch with its halo as a tile, overlapping at least as the patches do."""
    loaders = settings.get("loaders") or {}
    phase = loaders.get("test") or loaders.get("val") or loaders.get("train") or {}
    builder = phase.get("slice_builder") or {}
    patch = _three(builder.get("patch_shape") or (64, 64, 64), "patch_shape")
    stride = _three(builder.get("stride_shape") or patch, "stride_shape")
    halo = _three(builder.get("halo_shape") or (0, 0, 0), "halo_shape", least=0)
    demands = plugins.architecture(network.architecture).constraints_for(network.config)
    z, y, x = (p + 2 * h for p, h in zip(patch, halo, strict=True))
    tile = demands.fit((z, y, x))
    overlap = max(1 - min(s, t) / t for s, t in zip(stride, tile, strict=True))
    left_out = [
        f"the last patch that wins, its halo of {halo} voxels cropped: tiles of {tile} voxels are blended instead"
    ]
    return PredictConfig(tile_zyx=tile, overlap=min(round(overlap, 4), 0.9)), left_out


def _three(value: Any, name: str, *, least: int = 1) -> Zyx:
    try:
        z, y, x = (int(v) for v in value)
    except (TypeError, ValueError):
        raise BadInput(
            f"{name} of the configuration is {value!r}; it must be three sizes."
        ) from None
    if min(z, y, x) < least:
        raise BadInput(f"{name} of the configuration is {value!r}.")
    return z, y, x
