"""A model ready to predict, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ctseg.card import CoarseStage
from ctseg.data.steps.base import Box
from ctseg.engine.evaluation.runs import runs_in
from ctseg.engine.inference.cascade import (
    MARGIN_MM,
    Cascade,
    CoarseModel,
    asked_of_stages,
    own_stages,
)
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.label_merge import Merged
from ctseg.engine.inference.model import Model, NetworkModel
from ctseg.engine.prediction.api import Segmenter
from ctseg.errors import BadInput
from ctseg.zoo.out_of_fold import out_of_fold
from ctseg.zoo.resolve import Resolved, check_stages, find_entry, resolve_model


def load(
    name: str | Path | Sequence[str | Path],
    device: str = "auto",
    precision: str = "auto",
    *,
    backend: str = "auto",
    zoo: Path | str | None = None,
    region: Box | None = None,
    coarse: str | Path | None = None,
    coarse_labels: Sequence[str] | None = None,
    margin_mm: float | None = None,
    on_note: Callable[[str], None] | None = None,
    force: bool = False,
    fold: int | None = None,
) -> Segmenter:
    """Load a model by zoo name, run folder or weight file; or several, whose probabilities are averaged.

    A folder of folds stands for the runs in it.
    A results folder or exported zip of nnU-Net is imported on the way, once.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: `auto`, `fp32`, `bf16` or `fp16`; `int8` for models that were published with it, whose coarse models
            are left at `auto`.
        backend: what computes the networks on a CPU: `torch`, `openvino`, or `auto` for what is faster.
        zoo: zoo to look in first instead of the user's own.
        region: the only voxels of each scan to look at: (start, stop) along z, y, x as it is stored.
        coarse: a model that says where to look, in place of the one that the card names, if it does.
        coarse_labels: the only ones of its labels that count.
        margin_mm: kept around what it finds.
        on_note: told of a model of another project that was imported on the way, and of a single network that trained
            on the cases of `fold`.
        fold: of an ensemble of folds, only the member that this one validated, which did not train on its cases.
        force: warn where another major version of a plugin, or a scan far from those of training, would be refused.

    Raises:
        UnknownName, BadInput, CorruptWeights: as `ctseg.zoo.resolve.resolve_model`.
        BadInput: models that predict different labels, take other channels, or look only where different first
            stages find something; a margin or labels of a coarse model where there is none.

    Example:
        >>> segmenter = load("unet3d.hippocampus_v1")
        >>> mask = segmenter.predict(volume)
    """
    given = [name] if isinstance(name, str | Path) else list(name)
    names = [run for one in given for run in runs_in(Path(one).expanduser()) or (one,)]
    if not names:
        raise BadInput("No model is named.", hint="Published models: ctseg zoo list")
    found = [resolve_model(one, zoo, on_note=on_note) for one in names]
    if fold is not None:
        found = out_of_fold(found, fold, on_note)
    zoo = found[0].zoo or zoo
    stages = () if coarse is not None else _stages_of(found)
    fed = next((s.model for one in found for s in one.card.stages if s.as_channels), None)
    if fed is not None and coarse is not None:
        raise BadInput(
            f"The network of {found[0].name} takes the labels of {fed} as channels; no other coarse model can take its "
            "place.",
            hint="Leave out --coarse.",
        )
    _check_options(stages, coarse, coarse_labels, margin_mm)
    check_stages(found[0].card.name, stages, zoo)
    opened = partial(
        NetworkModel.from_files, device=device, precision=precision, backend=backend, force=force
    )
    models = [_opened(one, opened) for one in found]
    for one, resolved in zip(models, found, strict=True):
        one.card = one.card.model_copy(update={"members": resolved.card.members})
    own = [_with_margin(one.card.stages, margin_mm) for one in found]
    if len(models) > 1 and coarse is None and all(_is_own(stages) for stages in own):
        behind = [
            with_stages(model, stages, folder=one.files[0].parent, region=region, force=force)
            for model, stages, one in zip(models, own, found, strict=True)
        ]
        return Segmenter.of(Ensemble(behind))
    model: Model = models[0] if len(models) == 1 else Ensemble(models)
    if coarse is not None:
        labels = None if coarse_labels is None else tuple(coarse_labels)
        first = load(coarse, device, _of_stages(precision), backend=backend, zoo=zoo, force=force)
        stage = CoarseModel(first.model, labels, MARGIN_MM if margin_mm is None else margin_mm)
        return Segmenter.of(Cascade(model, [stage], region))
    stages = _with_margin(stages, margin_mm)
    place = found[0].files[0].parent
    return Segmenter.of(with_stages(model, stages, zoo, folder=place, region=region, force=force))


def _is_own(stages: Sequence[CoarseStage]) -> bool:
    """Whether the weights of the stages lie beside those of their model."""
    return any(stage.card is not None for stage in stages)


def _with_margin(stages: Sequence[CoarseStage], margin_mm: float | None) -> tuple[CoarseStage, ...]:
    if margin_mm is None:
        return tuple(stages)
    return tuple(stage.model_copy(update={"margin_mm": margin_mm}) for stage in stages)


def _opened(found: Resolved, open_files: Callable[[Sequence[Path]], NetworkModel]) -> Model:
    """A model; one whose labels are parted among models is laid together."""
    parts = found.card.parts
    if not parts:
        return open_files(found.files)
    place = {file.name: file for file in found.files}
    if any(member.file not in place for member in found.card.members):
        raise BadInput(
            f"{found.name} holds one part of {found.card.name}, whose labels are parted among "
            f"{len(parts)} models.",
            hint="Name the model, or the folder of its entry.",
        )
    models = [open_files([place[member.file] for member in part.members]) for part in parts]
    return Merged(found.card, models)


def _stages_of(found: Sequence[Resolved]) -> tuple[CoarseStage, ...]:
    """The coarse models that the cards name; models that are averaged must name the same ones, or have their own."""
    if all(_is_own(one.card.stages) for one in found):
        return found[0].card.stages
    for one in found[1:]:
        if one.card.stages != found[0].card.stages:
            raise BadInput(
                f"{found[0].name} and {one.name} cannot be averaged as they are: their cards name different "
                "coarse models, so they look at different parts of a scan.",
                hint="Name one for all of them: --coarse NAME",
            )
    return found[0].card.stages


def _of_stages(precision: str) -> str:
    """The precision of the coarse models before a model of this one."""
    return "auto" if precision == "int8" else precision


def _check_options(
    stages: Sequence[CoarseStage],
    coarse: str | Path | None,
    coarse_labels: Sequence[str] | None,
    margin_mm: float | None,
) -> None:
    """Refuse what would have no effect, or no meaning."""
    if coarse is None and coarse_labels is not None:
        raise BadInput(
            "Labels of a coarse model are named, but no coarse model.",
            hint="Name it: --coarse NAME",
        )
    if margin_mm is None:
        return
    if not (math.isfinite(margin_mm) and margin_mm >= 0):
        raise BadInput(
            f"The margin around what a coarse model finds cannot be {margin_mm} mm.",
            hint="Give millimetres, 0 or more, e.g. 20 (predict: --set margin_mm=20, publish: --margin 20)",
        )
    if coarse is None and all(stage.as_channels for stage in stages):
        raise BadInput(
            "A margin is given, but no coarse model to keep it around.",
            hint="Name one: --coarse NAME",
        )


def with_stages(
    model: Model,
    stages: Sequence[CoarseStage],
    zoo: Path | str | None = None,
    *,
    folder: Path | None = None,
    region: Box | None = None,
    force: bool = False,
) -> Model:
    """The model behind the stages that a card names, on the same device; the model itself where there are none.

    Args:
        folder: where the weights of the model lie, and of stages of its own.
    """
    if not stages and region is None:
        return model
    if folder is not None and _is_own(stages):
        return Cascade(model, own_stages(model, folder, stages, force=force), region)
    runtime = model.runtime
    device, precision, backend = asked_of_stages(runtime)
    opened = partial(
        load,
        device=device,
        precision=precision,
        backend=backend,
        zoo=zoo,
        force=force,
    )
    found = [
        CoarseModel(
            opened(find_entry(s.model, zoo).folder).model,
            s.labels or None,
            s.margin_mm,
            s.as_channels,
        )
        for s in stages
    ]
    return Cascade(model, found, region)
