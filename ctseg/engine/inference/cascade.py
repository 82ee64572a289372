"""Coarse to fine: a first model finds where to look, a second one looks there alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.steps.base import Box, Step
from ctseg.data.steps.region import Nowhere, Region
from ctseg.data.stream import Scan, Stream
from ctseg.engine.inference.check_scan import PlannedGrid
from ctseg.engine.inference.decoders import LabelMap
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.label_channels import WithLabels, label_map
from ctseg.engine.inference.memory.fit import FitRequest, Fitted
from ctseg.engine.inference.model import Model, check_channels, listening, name_of
from ctseg.engine.inference.predictor import Predictor
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.errors import BadInput
from ctseg.task import select
from ctseg.volume.geometry import Geometry

MARGIN_MM = 10.0
"""Kept around what a first stage finds."""


class Extent:
    """Takes pieces of a label map and keeps only the box around what is not background."""

    def __init__(self, back: SourceGridMapper) -> None:
        self._back = back
        self._hits = [np.zeros(b - a, bool) for a, b in back.box]

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        found = part != 0
        for own, hit in enumerate(self._hits):
            along = found.any(tuple(a for a in range(3) if a != own))
            first = start if own == axis else 0
            hit[first : first + len(along)] |= along

    def box(self, margin_zyx: tuple[int, int, int]) -> Box | None:
        """With a margin in voxels, cut at the scan's faces; None where there is nothing."""
        spans = []
        for hit, (low, _), size, margin in zip(
            self._hits, self._back.box, self._back.source, margin_zyx, strict=True
        ):
            at = np.flatnonzero(hit)
            if not len(at):
                return None
            first, last = low + int(at[0]), low + int(at[-1]) + 1
            spans.append((max(first - margin, 0), min(last + margin, size)))
        return spans[0], spans[1], spans[2]


def find_region(
    coarse: Model,
    scan: Scan,
    *,
    labels: Iterable[str] | None = None,
    margin_mm: float = MARGIN_MM,
    folder: Path | None = None,
    on_tiles: OnTiles | None = None,
) -> Box | None:
    """Where a first model sees any of its labels.

    Args:
        coarse: the first model.
        labels: the only ones of its labels that count; all by default.
        margin_mm: kept around them.
        folder: where temporary files go.

    Returns:
        first voxel and the one past the last along z, y, x of the scan as it is stored; None where it sees nothing.

    Raises:
        BadInput: a negative margin, or a model that predicts no labels.
    """
    if margin_mm < 0:
        raise BadInput(f"The margin around what the first stage finds is {margin_mm} mm.")
    kept = None if labels is None else select(coarse.task, labels)
    product = LabelMap(coarse.task, kept)
    stream = coarse.open(scan, folder)
    back = SourceGridMapper(stream.applied)
    extent = Extent(back)
    coarse.predictor.run(stream, [(product, extent)], back=back, on_tiles=on_tiles)
    z, y, x = (int(np.ceil(margin_mm / s)) for s in scan.geometry.spacing_zyx)
    return extent.box((z, y, x))


@dataclass(frozen=True)
class CoarseModel:
    """A model that says where to look.

    Attributes:
        labels: the only ones of its labels that count; all where it is None.
        margin_mm: kept around them.
        as_channels: its labels are further channels of the network behind it, and it does not say where to look.
    """

    model: Model
    labels: tuple[str, ...] | None = None
    margin_mm: float = MARGIN_MM
    as_channels: bool = False


class Cascade:
    """A model that looks only where it is told to, or where coarser models before it found something.

    See `ctseg.engine.inference.model.Model`.

    Args:
        model: the last one, which predicts.
        stages: from coarse to fine, each looks where the one before it found something.
        region: the box of each scan to look at, as it is stored; all of it where it is None.

    Raises:
        BadInput: a stage that takes other channels than the model, or predicts no labels.
    """

    def __init__(
        self, model: Model, stages: Sequence[CoarseModel] = (), region: Box | None = None
    ) -> None:
        for stage in stages:
            if stage.model.card.in_channels != model.card.in_channels:
                raise BadInput(
                    f"The stage {stage.model.card.name} takes {stage.model.card.in_channels} channel(s), the model "
                    f"{model.card.name} {model.card.in_channels}."
                )
            if stage.as_channels and isinstance(model, Ensemble):
                raise BadInput(
                    f"{model.card.name} cannot be made of several models: their networks take the labels of "
                    f"{stage.model.card.name} as channels.",
                    hint="Predict with one of them.",
                )
            LabelMap(stage.model.task)  # a regression has none
            if stage.labels is not None:
                select(stage.model.task, stage.labels)
        self.model, self.stages, self.region = model, tuple(stages), region
        self.card, self.networks, self.runtime = model.card, model.networks, model.runtime
        self.task, self.scale, self.settings = model.task, model.scale, model.settings
        self.on_note: Callable[[str], None] | None = model.on_note
        self.on_plan: Callable[[PlannedGrid], None] | None = model.on_plan

    @property
    def predictor(self) -> Predictor:
        self.model.on_note = self.on_note
        return self.model.predictor

    @property
    def reads_ahead(self) -> bool:
        """A stage runs its networks when a scan is opened."""
        return not self.stages and self.model.reads_ahead

    def open(self, scan: Scan, folder: Path | None = None, first: Sequence[Step] = ()) -> Stream:
        check_channels(self.card, scan)
        region, shown = self.region, []
        for stage in self.stages:
            coarse = listening(stage.model, self)
            within = coarse if region is None else Cascade(coarse, region=region)
            if stage.as_channels:
                values = [label.value for label in select(stage.model.task, stage.labels or ())]
                shown.append((label_map(within, scan, folder), values))
                continue
            found = find_region(
                within, scan, labels=stage.labels, margin_mm=stage.margin_mm, folder=folder
            )
            name = name_of(stage.model)
            if found is None:
                self._say(f"The first stage {name} found nothing; all is background.")
                return listening(self.model, self).open(scan, folder, (Nowhere(), *first))
            region = found
            spans = ", ".join(f"{a}:{b}" for a, b in region)
            self._say(f"The first stage {name} found something in {spans} (z, y, x).")
        steps = first if region is None else (Region(region), *first)
        stream = listening(self.model, self).open(scan, folder, steps)
        for labels, values in shown:
            stream = WithLabels(stream, labels, values)
        return stream

    def with_settings(self, **changes: Any) -> Cascade:
        """The tiling of the stages before the last model stays.

        A stage whose labels are channels averages mirrored views as the model behind it does.
        """
        stages = [
            dataclasses.replace(stage, model=stage.model.with_settings(tta=True))
            if stage.as_channels and changes.get("tta") and stage.model.card.predict.mirror_axes
            else stage
            for stage in self.stages
        ]
        return self._of(self.model.with_settings(**changes), stages)

    def fit(self, scan: Stream | Geometry, request: FitRequest) -> tuple[Cascade, Fitted]:
        model, fitted = self.model.fit(scan, request)
        return self._of(model, self.stages), fitted

    def shrink(self, asked: Cascade) -> Cascade | None:
        smaller = self.model.shrink(asked.model)
        return None if smaller is None else self._of(smaller, self.stages)

    def _of(self, model: Model, stages: Sequence[CoarseModel]) -> Cascade:
        return listening(Cascade(model, stages, self.region), self)

    def _say(self, text: str) -> None:
        if self.on_note:
            self.on_note(text)
