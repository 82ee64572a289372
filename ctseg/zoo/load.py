"""A model ready to predict, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctseg.card import CoarseStage
from ctseg.data.steps.base import Box
from ctseg.engine.ensemble import Ensemble
from ctseg.engine.segmenter import Segmenter
from ctseg.engine.stages import MARGIN_MM, Stage, Staged
from ctseg.zoo.resolve import resolve_model


def load(
    name: str | Path | Sequence[str | Path],
    device: str = "auto",
    precision: str = "auto",
    *,
    zoo: Path | str | None = None,
    region: Box | None = None,
    coarse: str | Path | None = None,
    coarse_labels: Sequence[str] | None = None,
    margin_mm: float | None = None,
) -> Segmenter:
    """Load a model by zoo name, run folder or weight file; or several, whose probabilities are averaged.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        zoo: zoo to look in first instead of the user's own.
        region: the only voxels of each scan to look at: (start, stop) along z, y, x as it is stored.
        coarse: a model that says where to look, in place of the one that the card names, if it does.
        coarse_labels: the only ones of its labels that count.
        margin_mm: kept around what it finds.

    Raises:
        UnknownName, BadInput, CorruptWeights: as `ctseg.zoo.resolve.resolve_model`.
        BadInput: models that predict different labels, or take other channels.

    Example:
        >>> segmenter = load("unet3d.hippocampus_v1")
        >>> mask = segmenter.predict(volume)
    """
    names = [name] if isinstance(name, str | Path) else list(name)
    found = [resolve_model(one, zoo) for one in names]
    models = [Segmenter.from_files(one.files, device=device, precision=precision) for one in found]
    model = models[0] if len(models) == 1 else Ensemble(models)
    if coarse is not None:
        labels = None if coarse_labels is None else tuple(coarse_labels)
        first = load(coarse, device, precision, zoo=zoo)
        stage = Stage(first, labels, MARGIN_MM if margin_mm is None else margin_mm)
        return Staged.of(model, [stage], region)
    stages = model.card.stages if len(models) == 1 else ()
    if margin_mm is not None:
        stages = tuple(stage.model_copy(update={"margin_mm": margin_mm}) for stage in stages)
    return with_stages(model, stages, zoo, region=region)


def with_stages(
    model: Segmenter,
    stages: Sequence[CoarseStage],
    zoo: Path | str | None = None,
    *,
    region: Box | None = None,
) -> Segmenter:
    """The model behind the stages that a card names, on the same device; the model itself where there are none."""
    if not stages and region is None:
        return model
    device, precision = str(model.runtime.device), model.runtime.precision
    found = [
        Stage(load(s.model, device, precision, zoo=zoo), s.labels or None, s.margin_mm)
        for s in stages
    ]
    return Staged.of(model, found, region)
