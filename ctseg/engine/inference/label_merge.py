"""Merged models: several models that each predict labels of their own, merged into one label map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.card import Card
from ctseg.data.steps.base import Array, Box
from ctseg.engine.inference.decoders import Decoder, LabelMap, Masks
from ctseg.engine.inference.ensemble import Ensemble, EnsemblePredictor
from ctseg.engine.inference.model import Model, settings_of
from ctseg.engine.inference.predictor import Predictor
from ctseg.engine.inference.sinks import Sink
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.errors import BadInput
from ctseg.specs import Task
from ctseg.task import label_dtype
from ctseg.volume.scratch import scratch


class Merged(Ensemble):
    """Merges the label maps of models with labels of their own; where two overlap, the later model wins.

    Args:
        card: card of the merged model; `parts` holds the models' cards, whose labels it has.
        models: one for each part.
    """

    def __init__(self, card: Card, models: Sequence[Model]) -> None:
        self.models, self.card = tuple(models), card
        self.networks = tuple(net for model in models for net in model.networks)
        self.runtime, self.task, self.settings = (
            models[0].runtime,
            card.task.task(),
            settings_of(card),
        )
        self.scale, self.on_note, self.on_plan = None, None, None

    def of_models(self, models: Sequence[Model]) -> Ensemble:
        return Merged(self.card, models)

    def member_decoder(self, model: Model) -> Decoder:
        return LabelMap(model.task)

    @property
    def accumulator(self) -> Decoder:
        return LabelMap(self.task)

    @property
    def predictor(self) -> Predictor:
        return _MergePredictor(
            self.networks, self.task, self.settings, self.runtime, self.on_note, models=self.models
        )


class _MergePredictor(EnsemblePredictor):
    """Runs one model after another, and decodes results from the merged label map."""

    def run(
        self, stream: Any, results: Sequence[tuple[Decoder, Sink]], *, mapper: SourceGridMapper | None = None,
        slice_range: tuple[int, int] | None = None, on_tiles: OnTiles | None = None,
    ) -> None:  # fmt: skip
        for decoder, _ in results:
            if not isinstance(decoder, LabelMap | Masks):
                raise no_probabilities()
        super().run(stream, results, mapper=mapper, slice_range=slice_range, on_tiles=on_tiles)

    def _allocate(self, mapper: SourceGridMapper, folder: Path | None) -> NDArray[Any]:
        """The array that holds, for each voxel, the index of its label in the merged task."""
        return scratch(mapper.source, np.dtype(label_dtype(self.task)), folder)

    def _member_result(
        self, number: int, mapper: SourceGridMapper, total: NDArray[Any]
    ) -> tuple[Decoder, Sink]:
        own = self.models[number].task
        return LabelMap(own), _Overlay(total, mapper.box, indices_in(own, self.task))

    def _decode(
        self,
        total: NDArray[Any],
        results: Sequence[tuple[Decoder, Sink]],
        mapper: SourceGridMapper,
        slice_range: tuple[int, int],
    ) -> None:
        slices = self._slab_slices(mapper)
        for start in range(*slice_range, slices):
            part = np.array(total[start : min(start + slices, slice_range[1])])
            classes = torch.from_numpy(part.astype(np.int32))
            for decoder, sink in results:
                assert isinstance(decoder, LabelMap | Masks)
                voxels = decoder.of_classes(classes).numpy().astype(decoder.dtype, copy=False)
                sink.put(0, start, voxels)


def no_probabilities() -> BadInput:
    """The error for what is decoded from probabilities."""
    return BadInput(
        "A merged model predicts labels and masks; it has no probabilities of all labels together.",
        hint="Leave out --probabilities, --confidence and --uncertainty, or predict with one of its parts.",
    )


class _Overlay:
    """A sink that writes the labels of a part over an array; voxels of its background keep their label."""

    def __init__(self, total: NDArray[Any], box: Box, table: NDArray[Any]) -> None:
        self._total, self._box, self._table = total, box, table

    def put(self, axis: int, start: int, part: Array) -> None:
        spans: list[Any] = [
            slice(a, a + n) for (a, _), n in zip(self._box, part.shape[-3:], strict=True)
        ]
        first = self._box[axis][0] + start
        spans[axis] = slice(first, first + part.shape[axis])
        view = self._total[tuple(spans)]
        np.copyto(view, self._table[part].astype(view.dtype), where=part != 0)


def indices_in(part: Task, whole: Task) -> NDArray[np.int32]:
    """For each value that a part writes, the index of its label in the merged task.

    Raises:
        BadInput: the merged task lacks a label of the part.
    """
    known = {label.name: index for index, label in enumerate(whole.labels)}
    table = np.zeros(max(label.value for label in part.labels) + 1, np.int32)
    for label in part.foreground:
        if label.name not in known:
            raise BadInput(
                f"The merged model has no label '{label.name}', which one of its parts has."
            )
        table[label.value] = known[label.name]
    return table
