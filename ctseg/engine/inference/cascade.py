"""Cascades: a coarse model finds the region in which a finer model predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctseg.card import CoarseStage
from ctseg.data.steps.base import Box, Step
from ctseg.data.steps.region import Nowhere, Region
from ctseg.data.stream import Scan, Stream
from ctseg.engine.inference.check_scan import PlannedGrid
from ctseg.engine.inference.decoders import LabelMap
from ctseg.engine.inference.ensemble import Ensemble
from ctseg.engine.inference.forward import TileTooLarge
from ctseg.engine.inference.label_channels import WithLabels, label_map
from ctseg.engine.inference.memory.fit import FitRequest, Fitted
from ctseg.engine.inference.model import (
    Model,
    NetworkModel,
    check_channels,
    listening,
    name_of,
)
from ctseg.engine.inference.predictor import Predictor
from ctseg.engine.inference.restart import restarting
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.model.runtime import Runtime
from ctseg.engine.model.weights_header import MEND, read_card
from ctseg.errors import BadInput, CorruptWeights, RunFailed
from ctseg.task import select
from ctseg.volume.geometry import Geometry

T = TypeVar("T")
MARGIN_MM = 10.0
"""Default margin around the region that a coarse model finds."""


class LabelExtent:
    """A sink that records the bounding box of the foreground in a label map."""

    def __init__(self, mapper: SourceGridMapper) -> None:
        self._mapper = mapper
        self._hits = [np.zeros(b - a, bool) for a, b in mapper.box]

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        foreground = part != 0
        for own, hit in enumerate(self._hits):
            along = foreground.any(tuple(a for a in range(3) if a != own))
            first = start if own == axis else 0
            hit[first : first + len(along)] |= along

    def box(self) -> Box | None:
        """The box, in voxels of the stored scan; None if there is no foreground."""
        spans = []
        for hit, (low, _) in zip(self._hits, self._mapper.box, strict=True):
            indices = np.flatnonzero(hit)
            if not len(indices):
                return None
            spans.append((low + int(indices[0]), low + int(indices[-1]) + 1))
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
    """The region in which a coarse model finds its labels.

    Args:
        coarse: the coarse model.
        labels: names of the labels that count; all by default.
        margin_mm: margin around them.
        folder: folder for temporary files.

    Returns:
        start and stop voxel along z, y, x of the stored scan; None if the model finds nothing.

    Raises:
        BadInput: a negative margin, or a model that predicts no labels.
    """
    if margin_mm < 0:
        raise BadInput(
            f"The margin around the coarse model's labels is {margin_mm} mm; it must be 0 or more."
        )
    box = find_labels(coarse, coarse.open(scan, folder), labels=labels, on_tiles=on_tiles)
    return None if box is None else widened(box, margin_mm, scan.geometry)


def find_labels(
    coarse: Model,
    stream: Stream,
    *,
    labels: Iterable[str] | None = None,
    on_tiles: OnTiles | None = None,
) -> Box | None:
    """The box of a stored scan in which a coarse model finds its labels; None if it finds nothing.

    Args:
        stream: the scan, preprocessed for the coarse model.
    """
    selected = None if labels is None else select(coarse.task, labels)
    decoder = LabelMap(coarse.task, selected)
    mapper = SourceGridMapper(stream.applied)
    extent = LabelExtent(mapper)
    coarse.predictor.run(stream, [(decoder, extent)], mapper=mapper, on_tiles=on_tiles)
    return extent.box()


def widened(box: Box, margin_mm: float, geometry: Geometry) -> Box:
    """The box with a margin, within the scan."""
    z, y, x = (
        (max(a - margin, 0), min(b + margin, size))
        for (a, b), size, margin in zip(
            box,
            geometry.shape_zyx,
            (int(np.ceil(margin_mm / s)) for s in geometry.spacing_zyx),
            strict=True,
        )
    )
    return z, y, x


def _found_by(coarse: Model, find: Callable[[Model], T]) -> T:
    """What a coarse model finds, with smaller tiles where the memory does not suffice for those of its card.

    Raises:
        RunFailed: even the smallest tile does not fit; tiles of the final model would change nothing.
    """
    try:
        return restarting(coarse, find)[0]
    except TileTooLarge as error:
        raise RunFailed(
            f"The coarse model {name_of(coarse)} cannot look at the scan. {error.message}",
            hint="Free memory there, choose another device (--device cpu), or name the part of the scan to look at: "
            "--set region=Z:Z,Y:Y,X:X",
        ) from error


@dataclass(frozen=True)
class CoarseModel:
    """A model that selects the region for the next, finer model.

    Attributes:
        labels: names of the labels that count; None for all.
        margin_mm: margin around them.
        as_channels: whether its labels are further channels of the next network; then it selects no region.
    """

    model: Model
    labels: tuple[str, ...] | None = None
    margin_mm: float = MARGIN_MM
    as_channels: bool = False


def own_stages(
    model: Model, folder: Path, stages: Sequence[CoarseStage] | None = None, *, force: bool = False
) -> list[CoarseModel]:
    """The stages of a model's card whose weights lie beside those of the model, on the same device.

    Args:
        folder: where the weights lie.
        stages: in place of those that the card names.
        force: as in `NetworkModel.from_files`.

    Raises:
        FileProblem, CorruptWeights: weights that are missing, or others than the card names.
    """
    found = []
    device, precision, backend = asked_of_stages(model.runtime)
    for stage in model.card.stages if stages is None else stages:
        if stage.card is None:
            continue
        files = [folder / member.file for member in stage.card.members]
        first = NetworkModel.from_files(
            files, device=device, precision=precision, backend=backend, force=force
        )
        for file, member in zip(files, stage.card.members, strict=True):
            if member not in read_card(file).members:
                raise CorruptWeights(
                    f"{file} is another first stage than the one that {model.card.name or 'the model'} was trained "
                    "behind.",
                    hint=MEND,
                )
        found.append(CoarseModel(first, stage.labels or None, stage.margin_mm, stage.as_channels))
    return found


def asked_of_stages(runtime: Runtime) -> tuple[str, str, str]:
    """Device, precision and backend to ask for, so that the stages before a model are computed as it is.

    fp32 that nobody asked for is left open; int8 is of the last model alone.
    """
    device = str(runtime.device)
    if runtime.precision == "int8":
        return device, "auto", "auto"
    asked = runtime.precision != "fp32" or runtime.exact
    return device, runtime.precision if asked else "auto", runtime.backend


def behind_own_stages(model: Model, file: Path) -> Model:
    """The model of a weight file behind the stages whose weights lie beside it; the model itself without any."""
    stages = own_stages(model, file.parent)
    return Cascade(model, stages) if stages else model


class Cascade:
    """Restricts a model to a given region, or to the region that coarse models find.

    Implements `ctseg.engine.inference.model.Model`.

    Args:
        model: the final model, which predicts.
        stages: coarse models, from coarse to fine; each predicts in the region that the previous one found.
        region: a box of the stored scan; None for the whole scan.

    Raises:
        BadInput: a coarse model with other input channels than the final model, or without labels.
    """

    def __init__(
        self, model: Model, stages: Sequence[CoarseModel] = (), region: Box | None = None
    ) -> None:
        for stage in stages:
            if stage.model.card.in_channels != model.card.in_channels:
                raise BadInput(
                    f"The coarse model {stage.model.card.name} takes {stage.model.card.in_channels} channel(s), "
                    f"the model {model.card.name} takes {model.card.in_channels}."
                )
            if stage.as_channels and isinstance(model, Ensemble):
                raise BadInput(
                    f"{model.card.name} cannot be made of several models: their networks take the labels of "
                    f"{stage.model.card.name} as channels.",
                    hint="Predict with one of them.",
                )
            LabelMap(stage.model.task)  # raises for a regression
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
        """False with coarse models, since `open` runs their networks."""
        return not self.stages and self.model.reads_ahead

    def open(self, scan: Scan, folder: Path | None = None, first: Sequence[Step] = ()) -> Stream:
        check_channels(self.card, scan)
        region, shown = self.region, []
        for stage in self.stages:
            coarse = listening(stage.model, self)
            within = coarse if region is None else Cascade(coarse, region=region)
            if stage.as_channels:
                values = [label.value for label in select(stage.model.task, stage.labels or ())]
                labels = _found_by(within, partial(label_map, scan=scan, folder=folder))
                shown.append((labels, values))
                continue
            find = partial(
                find_region,
                scan=scan,
                labels=stage.labels,
                margin_mm=stage.margin_mm,
                folder=folder,
            )
            region = _found_by(within, find)
            name = name_of(stage.model)
            if region is None:
                self._say(f"The coarse model {name} found nothing; everything is background.")
                return listening(self.model, self).open(scan, folder, (Nowhere(), *first))
            spans = ", ".join(f"{a}:{b}" for a, b in region)
            self._say(f"The coarse model {name} found something in {spans} (z, y, x).")
        steps = first if region is None else (Region(region), *first)
        stream = listening(self.model, self).open(scan, folder, steps)
        return WithLabels(stream, *shown) if shown else stream

    def with_settings(self, **changes: Any) -> Cascade:
        """The same cascade with another tiling of the final model; coarse models keep theirs.

        A coarse model whose labels are channels averages mirrored views as the final model does.
        """
        stages = [
            dataclasses.replace(stage, model=stage.model.with_settings(tta=True))
            if stage.as_channels and changes.get("tta") and stage.model.card.predict.mirror_axes
            else stage
            for stage in self.stages
        ]
        return self._with_model(self.model.with_settings(**changes), stages)

    def fit(self, scan: Stream | Geometry, request: FitRequest) -> tuple[Cascade, Fitted]:
        model, fitted = self.model.fit(scan, request)
        return self._with_model(model, self.stages), fitted

    def shrink(self, original: Cascade) -> Cascade | None:
        smaller = self.model.shrink(original.model)
        return None if smaller is None else self._with_model(smaller, self.stages)

    def _with_model(self, model: Model, stages: Sequence[CoarseModel]) -> Cascade:
        return listening(Cascade(model, stages, self.region), self)

    def _say(self, text: str) -> None:
        if self.on_note:
            self.on_note(text)
