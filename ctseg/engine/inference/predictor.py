"""`Predictor`: predicts a scan slab by slab and passes results on piece by piece.

A slab is read, preprocessed, tiled, predicted, blended, resampled to the scan's grid and written as soon as its last
tile is predicted. Memory depends on tile, overlap, cross-section and classes; it is independent of the scan's length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ctseg.data.pipeline import background_fill
from ctseg.data.steps import OnValues
from ctseg.data.stream import Stream
from ctseg.engine.inference.decoders import Decoder
from ctseg.engine.inference.sinks import Sink
from ctseg.engine.inference.sliding_window import Air, OnTiles, SlidingWindow
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.inference.tiling_settings import TileGrid, TilingSettings
from ctseg.engine.model.runtime import Runtime
from ctseg.errors import BadInput
from ctseg.specs import Task, Zyx
from ctseg.task import activate

PIECE_BYTES = 2**26
"""Pieces are cut so that decoding one takes about this much memory."""


@dataclass(frozen=True)
class Predictor:
    """Runs networks over scans.

    Attributes:
        networks: one for each member of an ensemble, in eval mode on the device; their probabilities (or logits) are
            averaged.
        task: meaning of the logits.
        settings: tiling of a scan.
        runtime: device, precision and memory layout.
        on_note: called with notes about changes, such as a smaller batch.
    """

    networks: Sequence[torch.nn.Module]
    task: Task
    settings: TilingSettings
    runtime: Runtime
    on_note: Callable[[str], None] | None = None

    def run(
        self,
        stream: Stream,
        results: Sequence[tuple[Decoder, Sink]],
        *,
        mapper: SourceGridMapper | None = None,
        slice_range: tuple[int, int] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> None:
        """Predict a scan.

        Args:
            results: pairs of a decoder and the sink for its pieces.
            mapper: the mapper from this stream's grid to the scan's, if there is one already.
            slice_range: start and stop of the box's slices to predict, along `SourceGridMapper.axis` in the network's
                order; all by default. Ranges predicted separately equal the whole bit for bit if they are cut where
                slabs end (`seams`); at other seams a confidence, which ignores negligible classes, differs by 1e-7.
            on_tiles: called with (tiles done, tiles in total).
        """
        mapper = mapper or SourceGridMapper(stream.applied)
        if mapper.empty:
            return
        span = None
        stop = None
        if slice_range is not None:
            low, high = mapper.network_span(*slice_range)
            # up to the end of the slab: this costs nothing, and pieces are cut as in the whole scan
            ends = _grid(stream.shape_czyx[1:], self.settings).ends
            span = low, next(end for end in ends if end >= high)
            mapper.start_at(slice_range[0])
            stop = slice_range[1]
        window = SlidingWindow(self.networks, self.settings, self.runtime, on_tiles, self.on_note)
        for start, outs in window.slabs(stream, span=span, air=self._air(stream)):
            combined = combine(self.task, outs, average=self.settings.average)
            for piece in mapper.feed(start, combined, stop):
                for decoder, sink in results:
                    slices = max(1, PIECE_BYTES // (decoder.working * mapper.plane))
                    for part in piece.split(slices):
                        voxels = decoder.decode(part.low_czyx, part.positions)
                        sink.put(mapper.axis, part.start, mapper.to_source_axes(part, voxels))

    def seams(self, stream: Stream, mapper: SourceGridMapper) -> list[int]:
        """Slices at which a scan may be cut into ranges for `run`: the ends of slabs, so that pieces stay the same."""
        ends = _grid(stream.shape_czyx[1:], self.settings).ends
        return sorted({0, mapper.slices, *(mapper.slices_before(end) for end in ends)})

    def tiles(self, stream: Stream, mapper: SourceGridMapper, slice_range: tuple[int, int]) -> int:
        """The number of tiles that a range of slices needs."""
        grid = _grid(stream.shape_czyx[1:], self.settings)
        return len(grid.rows(*mapper.network_span(*slice_range))) * len(grid.columns)

    def _air(self, stream: Stream) -> Air | None:
        """The preprocessed value of each channel up to which a voxel is air, and the logits of background.

        In air, the channels of labels are 0.
        """
        if self.settings.skip_air is None:
            return None
        if self.task.kind == "regression":
            raise BadInput("A regression cannot skip air: it has no background.")
        level = np.full((stream.scan_channels, 1, 1, 1), self.settings.skip_air, np.float32)
        for applied_step in stream.applied.steps:
            if isinstance(applied_step.step, OnValues):
                level = applied_step.step.image(level, applied_step.before, applied_step.record)
        device = self.runtime.device
        background = torch.from_numpy(background_fill(self.task, probabilities=False))
        highest = np.zeros(stream.shape_czyx[0], np.float32)
        highest[: stream.scan_channels] = level.ravel()
        return Air(torch.from_numpy(highest).to(device), background.to(device))


@functools.lru_cache(maxsize=8)
def _grid(shape_zyx: Zyx, settings: TilingSettings) -> TileGrid:
    return TileGrid(shape_zyx, settings)


def combine(
    task: Task, outs: Sequence[torch.Tensor], *, average: str = "probabilities"
) -> torch.Tensor:
    """Combine the logits of several networks into the logits of their mean probability; regression values are averaged.

    Args:
        average: `logits` averages the logits instead, as nnU-Net does.
    """
    if len(outs) == 1:
        return outs[0]
    if task.kind == "regression" or average == "logits":
        return torch.stack(list(outs)).mean(0)
    mean = activate(task, outs[0][None])[0]
    for out in outs[1:]:
        mean += activate(task, out[None])[0]
    mean = (mean / len(outs)).clamp_(1e-7, 1 - 1e-7)
    return mean.logit_() if task.kind == "channels" else mean.log_()
