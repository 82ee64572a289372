"""Ensembles of models that differ in preprocessing or tiling: the mean of their probabilities.

The folds of one run share preprocessing and tiles, so that one `Predictor` runs them together. Here each model predicts
the whole scan in turn; large sums of probabilities on the scan's grid are kept in a temporary file.
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
"""Probabilities are clamped this far from 0 and 1 before their logarithm is taken."""


class Ensemble:
    """The mean of several models; implements `ctseg.engine.inference.model.Model`.

    Args:
        models: models with the same task and the same input channels.

    Raises:
        BadInput: models with different tasks or channels.
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
        self.scale: Scale | None = None  # the models return values in the unit of the target
        self.on_note: Callable[[str], None] | None = None
        self.on_plan: Callable[[PlannedGrid], None] | None = None

    def of_models(self, models: Sequence[Model]) -> Ensemble:
        """The same kind of ensemble of other models, such as these models with other tiles."""
        return Ensemble(models)

    def member_decoder(self, model: Model) -> Decoder:
        """The decoder for what one model contributes."""
        return ensemble_decoder(model)

    @property
    def accumulator(self) -> Decoder:
        """The decoder whose result has the size of the accumulator that holds a whole scan."""
        return ensemble_decoder(self.models[0])

    @property
    def predictor(self) -> Predictor:
        return EnsemblePredictor(
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
        """Fit each model separately, since only one runs at a time."""
        streams = scan.streams if isinstance(scan, _Streams) else [scan] * len(self.models)
        source = scan.applied.source if isinstance(scan, Stream) else scan
        buffered_bytes = waiting_bytes(source, (self.accumulator, *request.buffered))
        base = dataclasses.replace(request, buffered=(), buffered_bytes=buffered_bytes)
        fits = [
            model.fit(stream, dataclasses.replace(base, decoders=(self.member_decoder(model),)))
            for model, stream in zip(self.models, streams, strict=True)
        ]
        largest = max((fitted for _, fitted in fits), key=lambda fitted: fitted.estimate.total)
        notes = tuple(dict.fromkeys(note for _, fitted in fits for note in fitted.notes))
        out = self._retiled([model for model, _ in fits])
        return out, dataclasses.replace(largest, settings=out.settings, notes=notes)

    def shrink(self, original: Ensemble) -> Ensemble | None:
        pairs = list(zip(self.models, original.models, strict=True))
        smaller = [model.shrink(first) for model, first in pairs]
        if all(model is None for model in smaller):
            return None
        return self._retiled([new or old for new, (old, _) in zip(smaller, pairs, strict=True)])

    def _retiled(self, models: Sequence[Model]) -> Ensemble:
        """The same ensemble; its models have another tiling."""
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
            f"{name_of(first)} takes {first.card.in_channels} channel(s), {name_of(other)} takes "
            f"{other.card.in_channels}."
        )
    ours, theirs = ([c.casefold() for c in model.card.channels] for model in (first, other))
    if ours != theirs and sorted(ours) == sorted(theirs):
        raise BadInput(
            f"{name_of(first)} takes the channels {', '.join(first.card.channels)}, {name_of(other)} takes "
            f"{', '.join(other.card.channels)}: they are not in the same order."
        )


class _Streams(Stream):
    """One stream for each model; as a stream of its own it yields the stored scan."""

    def __init__(self, scan: Scan, streams: Sequence[Stream], folder: Path | None) -> None:
        super().__init__(scan, AppliedPipeline((), scan.geometry, scan.geometry))
        self.streams, self.folder = tuple(streams), folder


class EnsemblePredictor(Predictor):
    """Runs one model after another, and decodes results from the mean of their predictions."""

    def __init__(self, *arguments: Any, models: Sequence[Model]) -> None:
        super().__init__(*arguments)
        object.__setattr__(self, "models", tuple(models))

    models: tuple[Model, ...]

    def run(
        self,
        stream: Stream,
        results: Sequence[tuple[Decoder, Sink]],
        *,
        mapper: SourceGridMapper | None = None,
        slice_range: tuple[int, int] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> None:
        assert isinstance(stream, _Streams)
        mapper = mapper or SourceGridMapper(stream.applied)
        total = self._allocate(mapper, stream.folder)
        count = len(self.models)
        for number, (model, own) in enumerate(zip(self.models, stream.streams, strict=True)):

            def report(done: int, tiles: int, before: int = number) -> None:
                if on_tiles:
                    on_tiles(before * tiles + done, count * tiles)

            own_mapper = SourceGridMapper(own.applied)
            own_range = _own_range(model, own, own_mapper, slice_range)
            result = self._member_result(number, own_mapper, total)
            if own_range is None or own_range[1] > own_range[0]:
                model.predictor.run(
                    own, [result], mapper=own_mapper, slice_range=own_range, on_tiles=report
                )
        self._decode(total, results, mapper, slice_range or (0, mapper.slices))

    def _allocate(self, mapper: SourceGridMapper, folder: Path | None) -> NDArray[Any]:
        """The array that accumulates the predictions of a scan."""
        return scratch((self.task.out_channels, *mapper.source), np.float32, folder)

    def _member_result(
        self, number: int, mapper: SourceGridMapper, total: NDArray[Any]
    ) -> tuple[Decoder, Sink]:
        """The decoder of one model, and the sink that accumulates its result."""
        decoder = ensemble_decoder(self.models[number])
        return decoder, _WeightedSum(total, mapper.box, decoder.fill, 1 / len(self.models))

    def seams(self, stream: Stream, mapper: SourceGridMapper) -> list[int]:
        """Slices at which the sum is cut into the slabs that are decoded at a time."""
        return [*range(0, mapper.slices, self._slab_slices(mapper)), mapper.slices]

    def tiles(self, stream: Stream, mapper: SourceGridMapper, slice_range: tuple[int, int]) -> int:
        assert isinstance(stream, _Streams)
        count = 0
        for model, own in zip(self.models, stream.streams, strict=True):
            own_mapper = SourceGridMapper(own.applied)
            a, b = _own_range(model, own, own_mapper, slice_range) or (0, own_mapper.slices)
            count += model.predictor.tiles(own, own_mapper, (a, b)) if b > a else 0
        return count

    def _slab_slices(self, mapper: SourceGridMapper) -> int:
        """Slices of the sum that are decoded at a time."""
        return max(1, PIECE_BYTES // (4 * self.task.out_channels * mapper.plane))

    def _decode(
        self,
        total: NDArray[Any],
        results: Sequence[tuple[Decoder, Sink]],
        mapper: SourceGridMapper,
        slice_range: tuple[int, int],
    ) -> None:
        slices = self._slab_slices(mapper)
        for start in range(*slice_range, slices):
            part = np.array(total[:, start : min(start + slices, slice_range[1])])
            low = torch.from_numpy(part)
            if self.task.kind == "classes":
                low = low.clamp_(LEAST, 1).log_()
            elif self.task.kind == "channels":
                low = low.clamp_(LEAST, 1 - LEAST).logit_()
            z, y, x = (np.arange(n, dtype=np.float64) for n in low.shape[1:])
            for decoder, sink in results:
                sink.put(0, start, decoder.decode(low, (z, y, x)).cpu().numpy())


def _own_range(
    model: Model, stream: Stream, mapper: SourceGridMapper, slice_range: tuple[int, int] | None
) -> tuple[int, int] | None:
    """A model's own slices that cover these slices of the scan, cut at its own seams; None for all of them."""
    if slice_range is None or mapper.axis != 0 or mapper.empty:
        return None
    a, b = mapper.box_slices(*slice_range)
    seams = model.predictor.seams(stream, mapper)
    return max(s for s in seams if s <= a), min(s for s in seams if s >= b)


def ensemble_decoder(model: Model) -> Decoder:
    """The decoder whose results are averaged: probabilities, or the values of a regression."""
    if model.task.kind == "regression":
        return Values(model.task, model.scale, squeeze=False)
    return Probabilities(model.task, temperature=model.card.temperature)


class _WeightedSum:
    """A sink that adds each piece, times a weight, to an array; outside a model's box it adds the fill value."""

    def __init__(self, total: NDArray[np.float32], box: Box, fill: Array, weight: float) -> None:
        self._total, self._box, self._weight = total, box, np.float32(weight)
        self._fill = fill.astype(np.float32)[:, None, None, None]
        for z in range(total.shape[1]):
            total[:, z : z + 1] += self._fill * self._weight

    def put(self, axis: int, start: int, part: Array) -> None:
        spans: list[Any] = [
            slice(a, a + n) for (a, _), n in zip(self._box, part.shape[-3:], strict=True)
        ]
        first = self._box[axis][0] + start
        spans[axis] = slice(first, first + part.shape[axis + 1])
        self._total[(slice(None), *spans)] += (part - self._fill) * self._weight
