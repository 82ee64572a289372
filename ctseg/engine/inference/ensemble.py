"""Several models as one: the mean of their probabilities, each with its own preprocessing and tiles.

Folds of one run share all of that and go through the engine together (see `Predictor.networks`). Here each model
predicts the scan by itself; the sum of probabilities on the scan's grid lies in a temporary file where it is large.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.data.pipeline import AppliedPipeline
from ctseg.data.steps.base import Array, Box, Step
from ctseg.data.steps.target import Scale
from ctseg.data.stream import Scan, Stream
from ctseg.engine.inference.check_scan import PlannedGrid
from ctseg.engine.inference.decoders import Decoder, Probabilities, Values
from ctseg.engine.inference.memory.estimate import waiting_bytes
from ctseg.engine.inference.memory.fit import FitRequest, Fitted
from ctseg.engine.inference.model import Model, listening, name_of
from ctseg.engine.inference.predictor import PIECE_BYTES, Predictor
from ctseg.engine.inference.sinks import Sink
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.errors import BadInput
from ctseg.task import to_dict
from ctseg.volume.geometry import Geometry
from ctseg.volume.scratch import scratch

LEAST = 1e-7
"""Shares are kept this far from 0 and 1 before their logarithm is taken."""


class Ensemble:
    """The mean of several models; see `ctseg.engine.inference.model.Model`.

    Args:
        models: of one task, for scans of the same channels.

    Raises:
        BadInput: models that predict different things.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        first, *others = models
        for other in others:
            _check_same(first, other)
        self.models = tuple(models)
        self.card = first.card.model_copy(
            update={
                "name": " + ".join(name_of(model) for model in models),
                "members": tuple(member for model in models for member in model.card.members),
                "temperature": 1.0,
            }
        )
        self.networks = tuple(net for model in models for net in model.networks)
        self.runtime, self.task, self.settings = first.runtime, first.task, first.settings
        self.scale: Scale | None = None  # values come in their own unit already
        self.on_note: Callable[[str], None] | None = None
        self.on_plan: Callable[[PlannedGrid], None] | None = None

    def of_models(self, models: Sequence[Model]) -> Ensemble:
        """The same of other models, such as these with other tiles."""
        return Ensemble(models)

    def made_by(self, model: Model) -> Decoder:
        """What one of the models makes of a scan, for all of them together."""
        return shares(model)

    @property
    def held(self) -> Decoder:
        """What is held of a whole scan while the models take turns."""
        return shares(self.models[0])

    @property
    def predictor(self) -> Predictor:
        return Mean(
            self.networks, self.task, self.settings, self.runtime, self.on_note, models=self.models
        )

    @property
    def reads_ahead(self) -> bool:
        return all(model.reads_ahead for model in self.models)

    def open(self, scan: Scan, folder: Path | None = None, first: Sequence[Step] = ()) -> Stream:
        streams = [listening(model, self).open(scan, folder, first) for model in self.models]
        return _Streams(scan, streams, folder)

    def with_settings(self, **changes: Any) -> Ensemble:
        return self.of_models([model.with_settings(**changes) for model in self.models])

    def fit(self, scan: Stream | Geometry, request: FitRequest) -> tuple[Ensemble, Fitted]:
        """Each model gets a tiling of its own, since they take turns."""
        streams = scan.streams if isinstance(scan, _Streams) else [scan] * len(self.models)
        source = scan.applied.source if isinstance(scan, Stream) else scan
        held = waiting_bytes(source, (self.held, *request.finished))
        alone = dataclasses.replace(request, finished=(), held=held)
        fits = [
            model.fit(own, dataclasses.replace(alone, products=(self.made_by(model),)))
            for model, own in zip(self.models, streams, strict=True)
        ]
        most = max((fitted for _, fitted in fits), key=lambda fitted: fitted.estimate.total)
        notes = tuple(dict.fromkeys(note for _, fitted in fits for note in fitted.notes))
        out = self._of([model for model, _ in fits])
        return out, dataclasses.replace(most, settings=out.settings, notes=notes)

    def shrink(self, asked: Ensemble) -> Ensemble | None:
        pairs = list(zip(self.models, asked.models, strict=True))
        smaller = [model.shrink(first) for model, first in pairs]
        if all(model is None for model in smaller):
            return None
        return self._of([new or old for new, (old, _) in zip(smaller, pairs, strict=True)])

    def _of(self, models: Sequence[Model]) -> Ensemble:
        """The same ensemble with its models tiled otherwise."""
        out = self.of_models([listening(model, self) for model in models])
        out.card = self.card
        return listening(out, self)


def _check_same(first: Model, other: Model) -> None:
    one, two = ({**to_dict(model.task), "ignore": None} for model in (first, other))
    if one != two:
        raise BadInput(
            f"{name_of(first)} and {name_of(other)} do not predict the same labels.",
            hint="Average models of one task only.",
        )
    if first.card.in_channels != other.card.in_channels:
        raise BadInput(
            f"{name_of(first)} takes {first.card.in_channels} channel(s), {name_of(other)} "
            f"{other.card.in_channels}."
        )
    ours, theirs = ([c.casefold() for c in model.card.channels] for model in (first, other))
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise BadInput(
            f"{name_of(first)} takes the channels {', '.join(first.card.channels)}, {name_of(other)} takes "
            f"{', '.join(other.card.channels)}: not in the same order."
        )


class _Streams(Stream):
    """A scan as each of the models sees it; by itself it is the scan as it is stored."""

    def __init__(self, scan: Scan, streams: Sequence[Stream], folder: Path | None) -> None:
        super().__init__(scan, AppliedPipeline((), scan.geometry, scan.geometry))
        self.streams, self.folder = tuple(streams), folder


class Mean(Predictor):
    """Runs model after model, and makes results of the mean of what they say."""

    def __init__(self, *engine: Any, models: Sequence[Model]) -> None:
        super().__init__(*engine)
        object.__setattr__(self, "models", tuple(models))

    models: tuple[Model, ...]

    def run(
        self,
        stream: Stream,
        wanted: Sequence[tuple[Decoder, Sink]],
        *,
        back: SourceGridMapper | None = None,
        pieces: tuple[int, int] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> None:
        assert isinstance(stream, _Streams)
        back = back or SourceGridMapper(stream.applied)
        total = self._room(back, stream.folder)
        count = len(self.models)
        for number, (model, own) in enumerate(zip(self.models, stream.streams, strict=True)):

            def report(done: int, tiles: int, before: int = number) -> None:
                if on_tiles:
                    on_tiles(before * tiles + done, count * tiles)

            way = SourceGridMapper(own.applied)
            product, sink = self._share(number, way, total)
            part = _part(model, own, way, pieces)
            if part is None or part[1] > part[0]:
                model.predictor.run(own, [(product, sink)], back=way, pieces=part, on_tiles=report)
        self._make(total, wanted, back, pieces or (0, back.slices))

    def _room(self, back: SourceGridMapper, folder: Path | None) -> NDArray[Any]:
        """Where the models put their shares of a scan."""
        return scratch((self.task.out_channels, *back.source), np.float32, folder)

    def _share(
        self, number: int, way: SourceGridMapper, total: NDArray[Any]
    ) -> tuple[Decoder, Sink]:
        """What one of the models makes, and how it gets to the others."""
        product = shares(self.models[number])
        return product, _Adding(total, way.box, product.fill, 1 / len(self.models))

    def seams(self, stream: Stream, back: SourceGridMapper) -> list[int]:
        """Where a part of the sum ends that is made into results at a time."""
        return [*range(0, back.slices, self._slices(back)), back.slices]

    def tiles(self, stream: Stream, back: SourceGridMapper, pieces: tuple[int, int]) -> int:
        assert isinstance(stream, _Streams)
        count = 0
        for model, own in zip(self.models, stream.streams, strict=True):
            way = SourceGridMapper(own.applied)
            a, b = _part(model, own, way, pieces) or (0, way.slices)
            count += model.predictor.tiles(own, way, (a, b)) if b > a else 0
        return count

    def _slices(self, back: SourceGridMapper) -> int:
        """Slices of the sum that are made into results at a time."""
        return max(1, PIECE_BYTES // (4 * self.task.out_channels * back.plane))

    def _make(
        self,
        total: NDArray[Any],
        wanted: Sequence[tuple[Decoder, Sink]],
        back: SourceGridMapper,
        pieces: tuple[int, int],
    ) -> None:
        slices = self._slices(back)
        for start in range(*pieces, slices):
            part = np.array(total[:, start : min(start + slices, pieces[1])])
            low = torch.from_numpy(part)
            if self.task.kind == "classes":
                low = low.clamp_(LEAST, 1).log_()
            elif self.task.kind == "channels":
                low = low.clamp_(LEAST, 1 - LEAST).logit_()
            z, y, x = (np.arange(n, dtype=np.float64) for n in low.shape[1:])
            for product, sink in wanted:
                made = product.decode(low, (z, y, x))
                sink.put(0, start, made.cpu().numpy())


def _part(
    model: Model, stream: Stream, way: SourceGridMapper, pieces: tuple[int, int] | None
) -> tuple[int, int] | None:
    """What a model makes for these slices of the scan, cut at its own seams; None for all of it."""
    if pieces is None or way.axis != 0 or way.empty:
        return None
    a, b = way.pieces_of(*pieces)
    seams = model.predictor.seams(stream, way)
    return max(s for s in seams if s <= a), min(s for s in seams if s >= b)


def shares(model: Model) -> Decoder:
    """What is averaged: probabilities, or the values of a regression."""
    if model.task.kind == "regression":
        return Values(model.task, model.scale, flat=False)
    return Probabilities(model.task, temperature=model.card.temperature)


class _Adding:
    """Adds a share of each piece to an array; outside of what a model saw it adds the fill."""

    def __init__(self, total: NDArray[np.float32], box: Box, fill: Array, share: float) -> None:
        self._total, self._box, self._share = total, box, np.float32(share)
        self._fill = fill.astype(np.float32)[:, None, None, None]
        for z in range(total.shape[1]):
            total[:, z : z + 1] += self._fill * self._share

    def put(self, axis: int, start: int, part: Array) -> None:
        spans: list[Any] = [
            slice(a, a + n) for (a, _), n in zip(self._box, part.shape[-3:], strict=True)
        ]
        first = self._box[axis][0] + start
        spans[axis] = slice(first, first + part.shape[axis + 1])
        self._total[(slice(None), *spans)] += (part - self._fill) * self._share
