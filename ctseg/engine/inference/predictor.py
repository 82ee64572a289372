"""The streaming engine: a scan goes in slab by slab, results come out piece by piece.

Read, preprocess, tile, network, blend, back to the scan's grid, write: each slab is finished as soon as its last tile
is in. Memory depends on tile, overlap, cross-section and classes, never on the length of the scan.
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
from ctseg.engine.inference.sliding_window import OnTiles, slabs
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.inference.tiling_settings import TileGrid, TilingSettings
from ctseg.engine.model.runtime import Runtime
from ctseg.errors import BadInput
from ctseg.specs import Task, Zyx
from ctseg.task import activate

PIECE_BYTES = 2**26
"""Pieces are cut so that making one takes about this much memory."""


@dataclass(frozen=True)
class Predictor:
    """Networks and how they run.

    Attributes:
        networks: one a member of an ensemble, whose probabilities (or logits) are averaged; in eval mode on the device.
        task: what their logits mean.
        on_note: told of what was changed on the way.
    """

    networks: Sequence[torch.nn.Module]
    task: Task
    settings: TilingSettings
    runtime: Runtime
    on_note: Callable[[str], None] | None = None

    def run(
        self,
        stream: Stream,
        wanted: Sequence[tuple[Decoder, Sink]],
        *,
        back: SourceGridMapper | None = None,
        pieces: tuple[int, int] | None = None,
        on_tiles: OnTiles | None = None,
    ) -> None:
        """Predict a scan.

        Args:
            wanted: what is made of the logits, and where it goes.
            back: the map from this stream's grid to the scan's, where it is known already.
            pieces: start and stop along `SourceGridMapper.axis` of the box's slices to make, counted as the network
                meets them; all by default. Parts made apart equal the whole bit for bit, if their seams lie where
                slabs end; a confidence, which leaves out classes that hardly matter, differs by 1e-7 at other seams.
        """
        back = back or SourceGridMapper(stream.applied)
        if back.empty:
            return
        span = None
        stop = None
        if pieces is not None:
            low, high = back.network_span(*pieces)
            # as far as the slab goes: that costs nothing, and pieces are cut as those of the whole
            ends = _grid(stream.shape_czyx[1:], self.settings).ends
            span = low, next(end for end in ends if end >= high)
            back.start_at(pieces[0])
            stop = pieces[1]
        air, background = self._air(stream)
        for start, outs in slabs(
            self.networks, stream, self.settings, runtime=self.runtime, span=span,
            air=air, background=background, on_tiles=on_tiles, on_note=self.on_note,
        ):  # fmt: skip
            combined = combine(self.task, outs, average=self.settings.average)
            for piece in back.feed(start, combined, stop):
                for product, sink in wanted:
                    slices = max(1, PIECE_BYTES // (product.working * back.plane))
                    for part in piece.split(slices):
                        made = product.decode(part.low_czyx, part.positions)
                        sink.put(back.axis, part.start, back.placed(part, made))

    def seams(self, stream: Stream, back: SourceGridMapper) -> list[int]:
        """Where a scan may be cut into parts for `run`: where slabs end, so that parts are cut into the same pieces."""
        ends = _grid(stream.shape_czyx[1:], self.settings).ends
        return sorted({0, back.slices, *(back.slices_before(end) for end in ends)})

    def tiles(self, stream: Stream, back: SourceGridMapper, pieces: tuple[int, int]) -> int:
        """How many tiles a part takes."""
        grid = _grid(stream.shape_czyx[1:], self.settings)
        return len(grid.rows(*back.network_span(*pieces))) * len(grid.columns)

    def _air(self, stream: Stream) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The preprocessed value of each channel up to which a voxel is air, and the logits of background."""
        if self.settings.skip_air is None:
            return None, None
        if self.task.kind == "regression":
            raise BadInput("A regression has no background that air could be.")
        level = np.full((stream.shape_czyx[0], 1, 1, 1), self.settings.skip_air, np.float32)
        for applied_step in stream.applied.steps:
            if isinstance(applied_step.step, OnValues):
                level = applied_step.step.image(level, applied_step.before, applied_step.record)
        device = self.runtime.device
        background = torch.from_numpy(background_fill(self.task, probabilities=False))
        return torch.from_numpy(level.ravel().astype(np.float32)).to(device), background.to(device)


@functools.lru_cache(maxsize=8)
def _grid(shape_zyx: Zyx, settings: TilingSettings) -> TileGrid:
    return TileGrid(shape_zyx, settings)


def combine(
    task: Task, outs: Sequence[torch.Tensor], *, average: str = "probabilities"
) -> torch.Tensor:
    """The logits of one network, or those of the mean probability of several; values are averaged themselves.

    Args:
        average: `logits` takes the mean of the logits instead, as nnU-Net does.
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
