"""A results folder of nnU-Net v2, which `nnUNetv2_predict` reads, made of a published model."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctseg import plugins
from ctseg.card import Card
from ctseg.engine.model.build import build_for
from ctseg.errors import BadInput
from ctseg.files import write_text
from ctseg.nets import slicewise
from ctseg.nets.foreign.network import ForeignNetwork
from ctseg.nets.foreign.nnunet_export import obstacles, write_state
from ctseg.zoo.exporters.nnunet_plans import (
    PLANS_NAME,
    dataset_of,
    plans_of,
    step_obstacles,
    task_obstacles,
)
from ctseg.zoo.exporters.original import VIEWS, Exported, Original, originals
from ctseg.zoo.importers import nnunet
from ctseg.zoo.importers.nnunet_results import CHECKPOINT, DATASET, PLANS
from ctseg.zoo.resolve import Resolved, find_entry, resolve_entry

DATASET_NAME = re.compile(r"Dataset\d{3}_\w[\w-]*")
TRAINER = "nnUNetTrainer"
LOWRES, CASCADE = "3d_lowres", "3d_cascade_fullres"
PEER = "dynamic_network_architectures"
SHARED = (
    "image_reader_writer",
    "transpose_forward",
    "foreground_intensity_properties_per_channel",
)
"""Keys of plans that hold for all configurations."""


@dataclass(frozen=True)
class Part:
    """One configuration of the export: a model and what it becomes.

    Attributes:
        model: with its card and files.
        configuration: nnU-Net's name of it.
        network: the network of the card.
    """

    model: Resolved
    configuration: str
    network: ForeignNetwork

    @classmethod
    def of(cls, model: Resolved, configuration: str = "") -> Part:
        card = model.card
        spec = plugins.architecture(card.architecture)
        network = ForeignNetwork(card.architecture, plugins.make_config(spec, card.options))
        return cls(model, configuration or ("2d" if network.slicewise else "3d_fullres"), network)

    @property
    def folder(self) -> str:
        return f"{TRAINER}__{PLANS_NAME}__{self.configuration}"


def check_name(name: str) -> None:
    """Reject the name of a folder that nnU-Net would not find.

    Raises:
        BadInput: it is no `DatasetNNN_Name`.
    """
    if not DATASET_NAME.fullmatch(name):
        raise BadInput(
            f"nnU-Net finds no data set named '{name}'.",
            hint="Give a number of three digits and a name: -o nnUNet_results/Dataset901_Name",
        )


def export_nnunet(
    model: Resolved, folder: Path, name: str, zoo: Path | str | None
) -> tuple[list[Exported], tuple[str, ...]]:
    """Write the configurations of a model, and read them back to compare.

    Args:
        folder: to write into.
        name: of the data set, `DatasetNNN_Name`.
        zoo: where the first stage of a cascade is looked up.

    Returns:
        the networks; what nnU-Net does otherwise than ctseg, and its command.

    Raises:
        BadInput: nnU-Net cannot express the model; the message has the reasons.
        RunFailed: what was written gives other logits.
    """
    parts = _parts(model, zoo)
    dataset = dataset_of(model.card, name)
    plans, reasons = _plans(parts, dataset, name)
    if reasons:
        raise BadInput(
            f"nnU-Net cannot express {model.name}: {'; '.join(dict.fromkeys(reasons))}.",
            hint="Export its network for other tools: --to onnx or --to torch-export",
        )
    for part in parts:
        (folder / part.folder).mkdir()
        for file, content in ((PLANS, plans), (DATASET, dataset)):
            write_text(folder / part.folder / file, json.dumps(content, indent=2) + "\n")
    found = [one for part in parts for one in _networks(part, folder / part.folder, plans, dataset)]
    notes = [*(note for part in parts for note in _notes(part)), *_commands(parts, name)]
    return found, tuple(dict.fromkeys(notes))


def _parts(model: Resolved, zoo: Path | str | None) -> list[Part]:
    """The configurations: one, or the two of a cascade."""
    stages = model.card.stages
    if model.card.parts:
        raise BadInput(
            f"The labels of {model.name} are parted among {len(model.card.parts)} models; nnU-Net has one model for "
            "all labels.",
            hint="Export its networks for other tools: --to onnx or --to torch-export",
        )
    if not stages:
        return [Part.of(model)]
    if stages[0].card is not None:
        raise _no_region(model)
    first = resolve_entry(find_entry(stages[0].model, model.zoo or zoo))
    shown = sorted(first.card.task.task().foreground, key=lambda label: label.value)
    fed = stages[0].as_channels and stages[0].labels == tuple(label.name for label in shown)
    if len(stages) > 1 or not fed or first.card.stages:
        raise _no_region(model)
    return [Part.of(first, LOWRES), Part.of(model, CASCADE)]


def _no_region(model: Resolved) -> BadInput:
    first = model.card.stages[0].model
    return BadInput(
        f"{model.name} predicts only where {first} finds something; nnU-Net has no such stage.",
        hint="Export its network for other tools: --to onnx or --to torch-export",
    )


def _plans(
    parts: Sequence[Part], dataset: Mapping[str, Any], name: str
) -> tuple[dict[str, Any], list[str]]:
    """The plans of all configurations, and what they cannot express."""
    reasons: list[str] = []
    every: list[dict[str, Any]] = []
    for part in parts:
        card = part.model.card
        found = obstacles(part.network)
        if not found:
            every.append(plans_of(card, part.network, name, part.configuration))
            found = step_obstacles(card, every[-1], part.configuration)
        reasons += [*found, *task_obstacles(card, dataset)]
    if reasons:
        return {}, reasons
    *first, plans = every
    for earlier in first:
        reasons += [
            f"{key} differs from that of the first stage"
            for key in SHARED
            if earlier[key] != plans[key]
        ]
        plans["configurations"] = earlier["configurations"] | plans["configurations"]
        plans["configurations"][LOWRES]["next_stage"] = CASCADE
        plans["configurations"][CASCADE]["previous_stage"] = LOWRES
    return plans, reasons


def _networks(
    part: Part, folder: Path, plans: Mapping[str, Any], dataset: Mapping[str, Any]
) -> list[Exported]:
    """Write the folds, and compare what the importer makes of them."""
    written = []
    for index, original in enumerate(originals(part.model)):
        fold = _fold(part.model.card, index)
        place = folder / f"fold_{fold}"
        place.mkdir()
        state = write_state(original.network.state_dict(), part.network)
        arguments = {
            "plans": plans, "configuration": part.configuration, "fold": fold, "dataset_json": dataset,
        }  # fmt: skip
        content = {
            "network_weights": state,
            "init_args": arguments,
            "trainer_name": TRAINER,
            "inference_allowed_mirroring_axes": _mirrored(part),
            "current_epoch": 0,
        }
        packed = io.BytesIO()  # on a full disk, torch's own writer raises what nobody understands
        torch.save(content, packed)
        (place / CHECKPOINT).write_bytes(packed.getbuffer())
        file = (place / CHECKPOINT).relative_to(folder.parent).as_posix()
        written.append(_checked(part, original, place, file))
    return written


def _fold(card: Card, index: int) -> str:
    """Number of a member's fold, where they have one each."""
    folds = [member.fold for member in card.members] or [card.training_data.fold]
    known = [fold for fold in folds if fold is not None]
    if len(set(known)) == len(folds) and known:
        return str(known[index])
    return "all" if len(folds) < 2 else str(index)


def _mirrored(part: Part) -> tuple[int, ...] | None:
    axes = part.model.card.predict.mirror_axes or ()
    letters = "yx" if part.network.slicewise else "zyx"
    return tuple(letters.index(axis) for axis in axes if axis in letters) or None


def _checked(part: Part, original: Original, place: Path, file: str) -> Exported:
    """Compare the checkpoint as it is read back, and by nnU-Net's own class where that is installed."""
    with torch.no_grad():
        card, tensors = _read_back(part, place)
        network = build_for(card, tensors).eval()
        network.load_state_dict(tensors, strict=True)
        worst = original.check(network, (VIEWS,), "The results folder")
        by = "ctseg"
        if importlib.util.find_spec(PEER) is not None:
            theirs = _their_network(part, original, place)
            worst = max(worst, original.check(theirs, (VIEWS,), "nnU-Net's network"))
            by = PEER
    return Exported(file, original.member, None, worst, by)


def _read_back(part: Part, place: Path) -> tuple[Card, dict[str, torch.Tensor]]:
    """The card and the weights that `ctseg zoo import` makes of a fold."""
    again = nnunet.read([place.parent], folds=place.name.removeprefix("fold_"))
    card = again.card.model_copy(update={"stages": part.model.card.stages})
    return card, dict(again.members[0].tensors)


def _their_network(part: Part, original: Original, place: Path) -> Any:
    """nnU-Net's own network with the weights of a checkpoint, for tiles [B, C, Z, Y, X]."""
    from dynamic_network_architectures.architectures import unet

    content = torch.load(place / CHECKPOINT, weights_only=True)
    plans = content["init_args"]["plans"]
    built = plans["configurations"][part.configuration]["architecture"]
    kwargs = dict(built["arch_kwargs"])
    for key in built["_kw_requires_import"]:
        if kwargs[key] is not None:
            kwargs[key] = getattr(torch.nn, kwargs[key].rsplit(".", 1)[-1])
    cls = getattr(unet, built["network_class_name"].rsplit(".", 1)[-1])
    card = original.card
    network = cls(
        input_channels=card.network_channels, num_classes=card.out_channels, deep_supervision=False, **kwargs
    )  # fmt: skip
    network.load_state_dict(content["network_weights"], strict=True)
    network.eval()
    if not part.network.slicewise:
        return network
    return lambda tiles: slicewise.unfold(network(slicewise.fold(tiles)), len(tiles))


def _notes(part: Part) -> list[str]:
    """What nnU-Net does otherwise in prediction."""
    card = part.model.card
    predict, notes = card.predict, []
    if not isinstance(predict.overlap, float):
        notes.append(f"tiles overlap by {predict.overlap}; nnU-Net has one step size for all axes")
    if predict.blend != "nnunet":
        notes.append(f"the blend '{predict.blend}': nnU-Net has its own weights of tiles")
    if predict.padding != "zeros":
        notes.append("reflection around scans smaller than a tile: nnU-Net pads with zeros")
    if predict.average != "logits" and len(part.model.files) > 1:
        notes.append("the mean of probabilities: nnU-Net averages the logits of the folds")
    if predict.postprocess:
        notes.append("post-processing rules: nnUNetv2_predict applies none")
    if card.temperature != 1:
        notes.append(f"the temperature {card.temperature:g} of probabilities; labels are the same")
    if getattr(part.network.config, "dropout", 0) > 0:
        notes.append("dropout, which matters in further training only")
    return [f"nnU-Net differs: {note}." for note in notes]


def _commands(parts: Sequence[Part], name: str) -> list[str]:
    """The commands that predict as ctseg does without --tta, one for each configuration."""
    lines, before = [], ""
    for part in parts:
        card = part.model.card
        folds = " ".join(_fold(card, index) for index in range(len(part.model.files)))
        line = f"nnUNetv2_predict -i SCANS -o LABELS -d {name[7:10]} -c {part.configuration} -f {folds}{before}"
        if isinstance(card.predict.overlap, float) and card.predict.overlap != 0.5:
            line += f" -step_size {1 - card.predict.overlap:g}"
        lines.append(f"Use it: {line}{' --disable_tta' if card.predict.mirror_axes else ''}")
        before = " -prev_stage_predictions LABELS_BEFORE"
    return lines
