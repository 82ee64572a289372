"""nnU-Net v2: a results folder or an exported zip as one model, all folds an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ctseg
from ctseg import plugins
from ctseg.card import Card, Provider, Source, TrainingData
from ctseg.config import PredictConfig, PreprocessConfig, TaskConfig
from ctseg.config.postprocess import PostprocessRule
from ctseg.data.steps import step_to_dict
from ctseg.errors import BadInput, CorruptWeights, CtsegError, FileProblem
from ctseg.importer_specs import ImportedModel, ImportedWeights
from ctseg.nets.foreign import nnunet as networks
from ctseg.nets.foreign.network import ForeignNetwork, keys_of
from ctseg.specs import Zyx
from ctseg.zoo.importers.archive import Files
from ctseg.zoo.importers.fitting import check_weights, understood
from ctseg.zoo.importers.nnunet_labels import postprocessing, task_of
from ctseg.zoo.importers.nnunet_results import (
    CHECKPOINT,
    DATASET,
    PLANS,
    Fold,
    TrainedModel,
    find_model,
    trained_models,
    training_scans,
)
from ctseg.zoo.importers.nnunet_steps import steps_of
from ctseg.zoo.names import plain_name

SLICES = 8
"""Slices of a tile of a 2D configuration; each is computed by itself."""
POSTPROCESSING = "postprocessing.json"


def recognise(path: Path) -> bool:
    """Whether a folder or a zip holds trained models of nnU-Net v2.

    Raises:
        BadInput: a zip whose members lead out of it.
    """
    if path.is_file() and path.suffix.lower() != ".zip":
        return False
    try:
        return bool(trained_models(Files(path)))
    except (FileProblem, CorruptWeights, OSError):
        return False


def beside(path: Path) -> Sequence[Path]:
    """The folder of the first stage, where the path is that of a cascade behind it."""
    try:
        model = find_model(path, None)
        with understood(f"{PLANS} of {model.name}"):
            settings = networks.configuration_of(model.plans, model.configuration)
        stage = settings.get("previous_stage")
        return (model.sibling(str(stage)).files.root,) if stage else ()
    except CtsegError:  # reading the model says what is wrong
        return ()


def read(
    paths: Sequence[Path],
    *,
    configuration: str | None = None,
    folds: str | None = None,
    checkpoint: str = CHECKPOINT,
) -> ImportedModel:
    """The trained model of a results folder.

    Args:
        paths: the folder or zip, one.
        configuration: which, where there are several.
        folds: numbers with commas between, or `all`; every trained fold by default.
        checkpoint: file within each fold.

    Raises:
        BadInput: no such model, or something in it that has no counterpart here, by name.
    """
    if len(paths) != 1:
        raise BadInput(
            f"nnunet reads one results folder; {len(paths)} paths are given.",
            hint="ctseg zoo import nnunet RESULTS_FOLDER",
        )
    model = find_model(paths[0], configuration)
    found = model.folds(folds, checkpoint)
    _check_alike(found)
    with understood(f"{PLANS} and {DATASET} of {model.name}"):
        return _described(model, found, checkpoint)


def _check_alike(folds: Sequence[Fold]) -> None:
    for key in ("configuration", "trainer", "mirror_axes"):
        values = {str(getattr(fold, key)) for fold in folds}
        if len(values) > 1:
            raise BadInput(
                f"The folds were trained with different {key}: {', '.join(sorted(values))}.",
                hint="Import those that belong together: --folds 0,1",
            )


@keys_of("plans.json")
def _described(model: TrainedModel, folds: Sequence[Fold], checkpoint: str) -> ImportedModel:
    plans, dataset, first = model.plans, model.dataset, folds[0]
    settings = networks.configuration_of(plans, first.configuration)
    before = _before(model, settings, folds, checkpoint)
    task = task_of(dataset)
    channels = _channels(dataset)
    network = _network(plans, first)
    seen = len(channels) + (0 if before is None else len(before.card.task.task().foreground))
    members = [_weights(network, fold, task, seen) for fold in folds]
    rules, left_out = _postprocessing(model, task)
    if plans.get("image_reader_writer") == "Tiff3DIO":
        left_out.append(
            "spacings of TIFF files from a JSON beside them: ctseg reads TIFF's own tags"
        )
    scans, unknown = training_scans(model)
    left_out += unknown
    name = str(plans.get("dataset_name") or dataset.get("name") or model.name)
    card = Card(
        card_version=2,
        summary=_one_line(dataset.get("description")) or f"{name}, {first.configuration} of nnU-Net",
        architecture=network.architecture,
        options=network.options,
        provider=_provider(network),
        in_channels=len(channels),
        out_channels=len(task.labels),
        channels=channels,
        task=task,
        preprocess=PreprocessConfig(
            steps=tuple(step_to_dict(s) for s in steps_of(plans, settings, len(channels)))
        ),
        predict=PredictConfig(
            tile_zyx=_tile(settings["patch_size"], network),
            overlap=0.5,
            blend="nnunet",
            padding="zeros",
            average="logits",
            mirror_axes=_mirror_axes(first.mirror_axes, network),
            postprocess=rules,
        ),
        licence=_one_line(dataset.get("licence") or dataset.get("license")),
        training_data=TrainingData(
            name=name,
            licence=_one_line(dataset.get("licence") or dataset.get("license")),
            reference=_one_line(dataset.get("reference")),
            cases=_count(dataset.get("numTraining")),
            fold=_number(first) if len(folds) == 1 else None,
        ),
        training_scans=scans,
        source=Source(
            importer="nnunet",
            name=model.name,
            details={
                "dataset": name, "configuration": first.configuration, "trainer": first.trainer,
                "plans": str(plans.get("plans_name", "")), "checkpoint": checkpoint,
                "folds": ", ".join(fold.name for fold in folds),
            },
            files_sha256={f"fold_{fold.name}/{checkpoint}": fold.sha256 for fold in folds},
            left_out=tuple(left_out),
        ),
        ctseg_version=ctseg.__version__,
    )  # fmt: skip
    _check_tile(card, network)
    tag = plain_name(f"{name}_{first.configuration}", "model")
    return ImportedModel(card, members, tag, _notes(card), before)


def _before(
    model: TrainedModel, settings: Mapping[str, Any], folds: Sequence[Fold], checkpoint: str
) -> ImportedModel | None:
    """Of a cascade the model whose labels its network takes as channels, with the same folds."""
    stage = settings.get("previous_stage")
    if not stage:
        return None
    earlier = model.sibling(str(stage))
    found = earlier.folds(",".join(fold.name for fold in folds), checkpoint)
    _check_alike(found)
    if found[0].configuration != stage:
        raise BadInput(f"{earlier.name} holds {found[0].configuration} where {stage} is expected.")
    if networks.configuration_of(earlier.plans, found[0].configuration).get("previous_stage"):
        raise BadInput(f"The plans put a cascade behind the cascade {stage}.")
    return _described(earlier, found, checkpoint)


def _notes(card: Card) -> tuple[str, ...]:
    notes = []
    if card.predict.mirror_axes:
        notes.append("nnUNetv2_predict averages mirrored views by default: add --tta for the same.")
    if card.predict.postprocess:
        notes.append(
            "The post-processing of the source is applied; nnUNetv2_predict alone does not: --no-postprocess."
        )
    assert card.source is not None
    return (*notes, *(f"Not taken over: {what}." for what in card.source.left_out))


def _network(plans: Mapping[str, Any], fold: Fold) -> ForeignNetwork:
    """The network as nnU-Net runs it, on scans that the first step has turned."""
    plain = {**plans, "transpose_forward": (0, 1, 2)}
    if any(key.endswith("running_mean") for key in fold.state):
        plain = networks.with_batch_norm(plain, fold.configuration)  # as nnUNetTrainerBN does
    return networks.read_plans(plain, fold.configuration, deep_supervision=False)


def _weights(
    network: ForeignNetwork, fold: Fold, task: TaskConfig, channels: int
) -> ImportedWeights:
    found, due = networks.channels(fold.state), (channels, len(task.labels))
    if found != due:
        raise BadInput(
            f"The network of fold {fold.name} has {found[0]} channels in and {found[1]} out; plans and dataset.json "
            f"say {due[0]} and {due[1]}.",
            hint="Is dataset.json that of this training?",
        )
    tensors = networks.map_state(fold.state, network)
    check_weights(network, tensors, due, f"fold {fold.name} (trainer {fold.trainer})")
    return ImportedWeights(f"fold{fold.name}", tensors, _number(fold))


def _channels(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    names = dataset.get("channel_names") or dataset.get("modality")
    if not isinstance(names, dict) or not names:
        raise BadInput("dataset.json names no channels (channel_names).")
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _tile(patch: Sequence[int], network: ForeignNetwork) -> Zyx:
    sizes = [int(size) for size in patch]
    z, y, x = [SLICES, *sizes] if network.slicewise else sizes
    return z, y, x


def _check_tile(card: Card, network: ForeignNetwork) -> None:
    """nnU-Net's patch must be one that the network accepts, since another one would give other values."""
    assert card.predict.tile_zyx is not None
    tile = card.predict.tile_zyx
    demands = plugins.architecture(card.architecture).constraints_for(network.config)
    if demands.fit(tile) != tile:
        raise BadInput(
            f"The patch {tile} (z, y, x) is no multiple of the network's strides {demands.stride_zyx}.",
            hint="Are these the plans of this training?",
        )


def _mirror_axes(axes: Sequence[int], network: ForeignNetwork) -> tuple[Any, ...]:
    letters = "yx" if network.slicewise else "zyx"
    if any(not 0 <= axis < len(letters) for axis in axes):
        raise BadInput(f"The checkpoint allows mirroring along the axes {tuple(axes)}.")
    return tuple(letters[axis] for axis in axes)


def _postprocessing(
    model: TrainedModel, task: TaskConfig
) -> tuple[tuple[PostprocessRule, ...], list[str]]:
    """The rules of `postprocessing.json`, and what could not be taken over. A pickle is never opened."""
    tables = model.others(POSTPROCESSING)
    if len(tables) > 1:
        return (), [f"post-processing, of which there are {len(tables)} files"]
    if tables:
        try:
            return postprocessing(model.files.json(tables[0]), task), []
        except BadInput as error:
            return (), [f"post-processing: {error.message.rstrip('.')}"]
    if model.others("postprocessing.pkl"):
        return (), [f"post-processing, of which there is only a pickle and no {POSTPROCESSING}"]
    return (), []


def _provider(network: ForeignNetwork) -> Provider:
    plugin = plugins.registry().get("architecture", network.architecture).plugin
    return Provider(package=plugin.package, version=plugin.version)


def _number(fold: Fold) -> int | None:
    return int(fold.name) if fold.name.isdigit() else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _one_line(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""
