"""A MONAI bundle as a model of ctseg: configuration and weights are read as data, none of its code is run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

import ctseg
from ctseg import plugins
from ctseg.card import Card, Provider, Source, TrainingData
from ctseg.config import PreprocessConfig
from ctseg.data.steps import step_to_dict
from ctseg.errors import BadInput, CorruptWeights, FileProblem
from ctseg.importer_specs import ImportedModel, ImportedWeights
from ctseg.zoo.importers.archive import LARGEST_JSON, Files
from ctseg.zoo.importers.checkpoint import read_checkpoint, state_of
from ctseg.zoo.importers.fitting import check_weights, understood
from ctseg.zoo.names import plain_name
from ctseg_monai.expressions import Settings
from ctseg_monai.networks import Network, read_network
from ctseg_monai.outputs import Outputs, read_tiles
from ctseg_monai.transforms import active, name_of, steps_of

CONFIGS = tuple(f"configs/inference.{ending}" for ending in ("json", "yaml", "yml"))
METADATA, WEIGHTS, LICENCE = "configs/metadata.json", "models/model.pt", "LICENSE"
UNUSED = ("deep_supervision_heads.", "skip_layers.", "norm_cross_attn.", "cross_attn.")
"""Parts of the names of DynUNet's heads for training and second names, and of what UNETR never uses."""
PLACES = ("device", "sw_device", "progress", "sw_batch_size", "cache_roi_weight_map", "cpu_thresh")
"""Arguments of an inferer that say where and how fast it computes."""
UNSAFE = re.compile(r"__\w+__|\b(?:eval|exec|compile|globals|getattr)\s*\(")
"""What no configuration of the model zoo has, and what takes an expression out of its bounds."""


def recognise(path: Path) -> bool:
    """Whether a folder or a zip holds a bundle with a configuration for inference.

    Raises:
        BadInput: a zip whose members lead out of it.
    """
    if path.is_file() and path.suffix.lower() != ".zip":
        return False
    try:
        files = Files(path)
        return any(f"{_root(files)}{name}" in files.names for name in CONFIGS)
    except (FileProblem, CorruptWeights, OSError):
        return False


def read(
    paths: Sequence[Path], *, config: str | None = None, weights: str | None = None, skip: str = ""
) -> ImportedModel:
    """The model of a bundle.

    Args:
        paths: the folder or zip, one.
        config: file within it; `configs/inference.json` or `.yaml` by default.
        weights: file within it; `models/model.pt` by default.
        skip: names of post-processing transforms to leave out, separated by commas.

    Raises:
        BadInput: something that has no counterpart here, or would have to be run, by name.
    """
    if len(paths) != 1:
        raise BadInput(
            f"monai reads one bundle; {len(paths)} paths are given.",
            hint="ctseg zoo import monai BUNDLE",
        )
    files = Files(paths[0])
    root = _root(files)
    name = _inside(files, root, config, CONFIGS, "config")
    where = files.told(name)
    settings = Settings(_tables(files, name), where)
    _check_safe(settings.content, where)
    metadata = files.json(f"{root}{METADATA}") if f"{root}{METADATA}" in files.names else {}
    with understood(where):
        return _described(
            files, root, settings, metadata if isinstance(metadata, dict) else {},
            weights=weights, skip=[part.strip() for part in skip.split(",") if part.strip()],
        )  # fmt: skip


def _described(
    files: Files, root: str, settings: Settings, metadata: Mapping[str, Any], *, weights: str | None, skip: list[str]
) -> ImportedModel:  # fmt: skip
    where = settings.where
    network = read_network(_table(settings, "network_def", "network"), where)
    before = active(_transforms(settings, "preprocessing"), f"{where}, key 'preprocessing'")
    after = active(_transforms(settings, "postprocessing", skip), f"{where}, key 'postprocessing'")
    steps = steps_of(before, _image_key(before, where), f"{where}, key 'preprocessing'")
    spec = plugins.architecture(network.architecture)
    predict, left_out = read_tiles(
        _table(settings, "inferer", without=PLACES), spec.constraints_for(network.config), where
    )
    outputs = Outputs(after, skip, f"{where}, key 'postprocessing'")
    channels, labels = _names(metadata, network, outputs.kind)
    task = outputs.task(labels)
    predict = predict.model_copy(update={"postprocess": outputs.rules(task)})
    file = _inside(files, root, weights, (_default_weights(settings, where),), "weights")
    tensors, digest = _weights(files, file, network)
    plugin = plugins.registry().get("architecture", network.architecture).plugin
    title = _line(metadata.get("name")) or files.root.resolve().stem
    card = Card(
        card_version=2,
        summary=_line(metadata.get("task")) or _line(metadata.get("description")) or title,
        architecture=network.architecture,
        options=network.options,
        provider=Provider(package=plugin.package, version=plugin.version),
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        channels=channels,
        task=task,
        preprocess=PreprocessConfig(steps=tuple(step_to_dict(step) for step in steps)),
        predict=predict,
        licence=_licence(files, root, metadata),
        attribution=_line(metadata.get("copyright")),
        intended_use=_line(metadata.get("intended_use")),
        training_data=TrainingData(
            name=_line(metadata.get("data_source")) or title,
            reference=" ".join(_line(r) for r in metadata.get("references") or () if isinstance(r, str)),
        ),
        source=Source(
            importer="monai",
            name=title,
            details={
                "version": str(metadata.get("version", "")), "monai": str(metadata.get("monai_version", "")),
                "configuration": PurePosixPath(where).name,
            },
            files_sha256={file.removeprefix(root): digest},
            left_out=(*left_out, *outputs.left_out),
        ),
        ctseg_version=ctseg.__version__,
    )  # fmt: skip
    assert card.source is not None
    tag = plain_name(files.root.resolve().stem, "bundle")
    notes = tuple(f"Not taken over: {what}." for what in card.source.left_out)
    return ImportedModel(card, [ImportedWeights("weights", tensors)], tag, notes)


# ---------------------------------------------------------------- files


def _root(files: Files) -> str:
    """The folder of the bundle within a zip, with a slash at its end; empty where it is the top."""
    for name in () if files.root.is_dir() else files.names:
        for config in CONFIGS:
            if name == config or name.endswith(f"/{config}"):
                return name.removesuffix(config)
    return ""


def _inside(files: Files, root: str, given: str | None, usual: Sequence[str], option: str) -> str:
    """A file of the bundle.

    Raises:
        BadInput: it is named by a path that leads out of the bundle, or it is TorchScript.
        FileProblem: it is not there.
    """
    for name in (given,) if given is not None else usual:
        assert name is not None
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in name:
            raise BadInput(
                f"'{name}' leads out of the bundle {files.root}; it was not read.",
                hint=f"Name a file within it: --option {option}={usual[0]}",
            )
        if f"{root}{name}" in files.names:
            if place.suffix == ".ts":
                raise BadInput(
                    f"{name} is TorchScript, which holds code; it was not loaded.",
                    hint=f"Name the weights: --option weights={WEIGHTS}",
                )
            return f"{root}{name}"
    scripts = [n for n in files.names if n.endswith(".ts")]
    if option == "weights" and scripts:
        raise BadInput(
            f"{files.root} holds no {usual[0]}, only {scripts[0]}: TorchScript holds code, so it was not loaded.",
            hint="Download the bundle with its weights: python -m monai.bundle download NAME",
        )
    raise FileProblem(
        f"There is no {given or usual[0]} in {files.root}.",
        hint=f"Name it within the bundle: --option {option}={usual[0]}",
    )


def _tables(files: Files, name: str) -> dict[str, Any]:
    if name.endswith(".json"):
        content = files.json(name)
    else:
        with files.local(name, largest=LARGEST_JSON) as path:
            try:
                content = _Loader(path.read_text(encoding="utf-8")).get_single_data()
            except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
                line = " ".join(str(error).split())
                raise BadInput(f"{files.told(name)} is no plain YAML: {line}.") from None
    if not isinstance(content, dict):
        raise BadInput(f"{files.told(name)} holds no table of settings.")
    return content


class _Loader(yaml.SafeLoader):
    """Plain YAML, whose tables stay small however often aliases merge (`<<`) them into each other."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        once = {id(pair): pair for pair in reversed(node.value)}  # the last one counts
        node.value = list(once.values())[::-1]


def _check_safe(content: Mapping[str, Any], where: str) -> None:
    """Reject an expression that reaches for Python's insides anywhere, even where nothing would read it.

    Lists and tables that YAML's aliases repeat are looked at once.
    """
    parts: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    while parts:
        key, value = parts.pop()
        if isinstance(value, str) and value.startswith("$") and UNSAFE.search(value):
            raise Settings({}, where).refuse(value, key, "asks for code to be run")
        if isinstance(value, dict | list) and id(value) not in seen:
            seen.add(id(value))
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            parts += [(f"{key}::{name}" if key else str(name), part) for name, part in inside]


def _default_weights(settings: Settings, where: str) -> str:
    """The file that a CheckpointLoader of the configuration names, within `models/`; else `models/model.pt`.

    Raises:
        BadInput: it names a file outside of the bundle.
    """
    for key in ("handlers", "validate#handlers", "checkpointloader", "ckpt_path", "load_path"):
        for text in _paths(settings.content.get(key)):
            plain = text.removeprefix("$").strip()
            if ".." in plain or (plain.startswith(("/", "\\", "~")) or re.match(r"['\"]/", plain)):
                raise Settings({}, where).refuse(text, key, "leads out of the bundle")
            match = re.search(r"models/([\w.-]+\.pth?)\b", plain)
            if match:
                return f"models/{match[1]}"
    return WEIGHTS


def _paths(value: Any) -> list[str]:
    handlers = value if isinstance(value, list) else [value]
    paths = [one.get("load_path") if isinstance(one, dict) else one for one in handlers]
    return [path for path in paths if isinstance(path, str)]


def _weights(files: Files, file: str, network: Network) -> tuple[dict[str, Any], str]:
    told = files.told(file)
    with files.local(file) as path:
        content = read_checkpoint(path, name=told)
        digest = files.sha256(path)
    for key in ("model", "state_dict", "network", "model_state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = {
        name.removeprefix("module."): tensor
        for name, tensor in state_of(content, name=told).items()
        if not any(part in name for part in UNUSED)
    }
    check_weights(network, state, (network.in_channels, network.out_channels), told)  # type: ignore[arg-type]
    return state, digest


# ---------------------------------------------------------------- what the configuration says


def _table(settings: Settings, *keys: str, without: Collection[str] = ()) -> Mapping[str, Any]:
    """The first of these keys that the configuration has.

    Args:
        without: parts of it that are not needed, and so not resolved.
    """
    for key in keys:
        if key in settings.content:
            content = settings.content[key]
            if isinstance(content, dict):
                content = {k: v for k, v in content.items() if k not in without}
            found = settings.resolve(content, key)
            if isinstance(found, dict):
                return found
            raise BadInput(f"{settings.where}, key '{key}' must be a table with a '_target_'.")
    raise BadInput(
        f"{settings.where} has no '{keys[0]}'.",
        hint="Is it a configuration for inference of MONAI's model zoo?",
    )


def _transforms(settings: Settings, key: str, skip: Sequence[str] = ()) -> Any:
    """The transforms of a Compose; those to be skipped are left as they are, whatever they hold."""
    content = settings.content.get(key)
    if content is None:
        return []
    if isinstance(content, dict) and isinstance(content.get("transforms"), list):
        return [
            t if isinstance(t, dict) and str(t.get("_target_", "")).rsplit(".", 1)[-1] in skip
            else settings.resolve(_needed(t), f"{key}::transforms::{i}")
            for i, t in enumerate(content["transforms"])
        ]  # fmt: skip
    found = settings.get(key)
    return found.get("transforms", []) if isinstance(found, dict) else found


def _needed(transform: Any) -> Any:
    """A transform without the arguments that ctseg does not read, such as where files are saved."""
    if not isinstance(transform, dict):
        return transform
    name = str(transform.get("_target_", "")).rsplit(".", 1)[-1]
    if name in ("Invertd", "InvertD", "InvertDict"):
        return {
            k: transform[k] for k in ("_target_", "_disabled_", "nearest_interp") if k in transform
        }
    if name.removesuffix("d") in (
        "SaveImage",
        "ToDevice",
        "EnsureType",
        "CastToType",
        "DeleteItems",
    ):
        return {k: transform[k] for k in ("_target_", "_disabled_", "keys") if k in transform}
    return transform


def _image_key(transforms: Sequence[Mapping[str, Any]], where: str) -> str:
    """The key of the scan: the one that is loaded, labels apart."""
    keys: list[str] = []
    for transform in transforms:
        if name_of(transform, where) == "LoadImaged":
            given = transform.get("keys", [])
            keys += [given] if isinstance(given, str) else list(given)
    images = [key for key in dict.fromkeys(keys) if "label" not in key.lower()]
    if len(images) > 1:
        raise BadInput(
            f"{where} loads {len(images)} images: {', '.join(images)}.",
            hint="One image, with several channels if need be, has a counterpart here.",
        )
    return images[0] if images else "image"


def _names(
    metadata: Mapping[str, Any], network: Network, kind: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the scan's channels and of the network's outputs."""
    data = metadata.get("network_data_format") or {}
    image = next(iter((data.get("inputs") or {}).values()), {}) or {}
    pred = next(iter((data.get("outputs") or {}).values()), {}) or {}
    hounsfield = str(image.get("modality", "")).upper() == "CT" and network.in_channels == 1
    channels = ("CT",) if hounsfield else _defined(image, network.in_channels, "channel")
    labels = list(_defined(pred, network.out_channels, "label"))
    if kind == "classes" and not any(label.lower() == "background" for label in labels):
        labels[0] = "background"
    return channels, tuple(labels)


def _defined(about: Mapping[str, Any], count: int, what: str) -> tuple[str, ...]:
    """`channel_def` where it names each channel once; else numbers."""
    table = about.get("channel_def") or {}
    names = [_line(str(table.get(str(i), ""))) for i in range(count)]
    if all(names) and len(set(names)) == count:
        return tuple(names)
    return tuple(f"{what}_{i}" for i in range(count))


def _licence(files: Files, root: str, metadata: Mapping[str, Any]) -> str:
    """The licence of the bundle: as its metadata says, or Apache 2.0 where its LICENSE is that; else unknown."""
    said = _line(metadata.get("license") or metadata.get("licence"))
    if said or f"{root}{LICENCE}" not in files.names:
        return said
    with files.local(f"{root}{LICENCE}", largest=2**20) as path:
        start = " ".join(path.read_text(encoding="utf-8", errors="replace")[:400].split())
    return "Apache-2.0" if "Apache License Version 2.0" in start else ""


def _line(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
