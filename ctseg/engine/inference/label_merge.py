"""Models that part the labels among them, as one: each predicts its own, and their label maps are laid together."""

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
from ctseg.engine.inference.ensemble import Ensemble, Mean
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
    """Models with labels of their own. Where two of them see something, the later one counts.

    Args:
        card: of the whole; its `parts` are the cards of the models, and its labels theirs by name.
        models: one a part.
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

    def made_by(self, model: Model) -> Decoder:
        return LabelMap(model.task)

    @property
    def held(self) -> Decoder:
        return LabelMap(self.task)

    @property
    def predictor(self) -> Predictor:
        return _Over(
            self.networks, self.task, self.settings, self.runtime, self.on_note, models=self.models
        )


class _Over(Mean):
    """Runs model after model, and makes results of the labels that they leave."""

    def run(
        self, stream: Any, wanted: Sequence[tuple[Decoder, Sink]], *, back: SourceGridMapper | None = None,
        pieces: tuple[int, int] | None = None, on_tiles: OnTiles | None = None,
    ) -> None:  # fmt: skip
        for product, _ in wanted:
            if not isinstance(product, LabelMap | Masks):
                raise BadInput(
                    "A model of merged parts has labels and masks, and no probabilities of all labels together.",
                    hint="Leave out --probabilities and --confidence, or predict with one of its parts.",
                )
        super().run(stream, wanted, back=back, pieces=pieces, on_tiles=on_tiles)

    def _room(self, back: SourceGridMapper, folder: Path | None) -> NDArray[Any]:
        """The index among the labels of the whole, of each voxel."""
        return scratch(back.source, np.dtype(label_dtype(self.task)), folder)

    def _share(
        self, number: int, way: SourceGridMapper, total: NDArray[Any]
    ) -> tuple[Decoder, Sink]:
        own = self.models[number].task
        return LabelMap(own), _Laying(total, way.box, indices_in(own, self.task))

    def _make(
        self,
        total: NDArray[Any],
        wanted: Sequence[tuple[Decoder, Sink]],
        back: SourceGridMapper,
        pieces: tuple[int, int],
    ) -> None:
        slices = self._slices(back)
        for start in range(*pieces, slices):
            part = np.array(total[start : min(start + slices, pieces[1])])
            found = torch.from_numpy(part.astype(np.int32))
            for product, sink in wanted:
                assert isinstance(product, LabelMap | Masks)
                made = product.of_classes(found).numpy().astype(product.dtype, copy=False)
                sink.put(0, start, made)


class _Laying:
    """Puts the labels of a part over what lies there; its background leaves it."""

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
    """For each value that a part writes, the index of its label among those of the whole.

    Raises:
        BadInput: a label that the whole does not have.
    """
    known = {label.name: index for index, label in enumerate(whole.labels)}
    table = np.zeros(max(label.value for label in part.labels) + 1, np.int32)
    for label in part.foreground:
        if label.name not in known:
            raise BadInput(f"The label '{label.name}' of a part is none of the whole.")
        table[label.value] = known[label.name]
    return table
