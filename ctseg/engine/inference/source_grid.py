"""`SourceGridMapper`: maps slabs of logits on the network's grid to pieces of results on the scan's own grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.data.pipeline import AppliedPipeline, spans_of, tracks_of
from ctseg.data.steps.track import Positions
from ctseg.specs import Zyx


@dataclass(frozen=True)
class GridPiece:
    """A part of the scan whose logits are complete.

    Attributes:
        start: its first slice along `SourceGridMapper.axis`, within `SourceGridMapper.box`.
        low_czyx: the logits around it, on the network's grid.
        positions: positions of its voxels in `low_czyx`, along the network's z, y, x.
        flip: whether the scan's grid has the slices in reverse order.
    """

    start: int
    low_czyx: torch.Tensor
    positions: Positions
    flip: bool

    def split(self, slices: int) -> Iterator[GridPiece]:
        """Split the piece into pieces of at most this many slices."""
        z, y, x = self.positions
        for first in range(0, len(z), slices):
            at = z[first : first + slices]
            # only the slices around the positions, so that one slice of the result does not pass on all of them
            low = int(np.clip(np.floor(at[0]), 0, self.low_czyx.shape[1] - 1))
            high = int(np.clip(np.floor(at[-1]) + 2, low + 1, self.low_czyx.shape[1]))
            start = self.start + (len(z) - first - len(at) if self.flip else first)
            yield GridPiece(start, self.low_czyx[:, low:high], (at - low, y, x), self.flip)


class SourceGridMapper:
    """Maps the network's grid back to the scan's grid, slab by slab.

    Attributes:
        axis: the axis of the scan that runs along the network's z; pieces follow each other along it.
        box: start and stop of the predicted box along each axis of the scan; a crop removed the voxels around it.
        source: shape of the scan's grid.
        ascending: whether pieces come from the first slice of the scan to the last.
    """

    def __init__(self, applied: AppliedPipeline) -> None:
        tracks = tracks_of(applied)
        self._order = tuple(track.axis for track in tracks)
        self.box = spans_of(tracks)
        self.source: Zyx = applied.source.shape_zyx
        z, y, x = (self._order.index(axis) for axis in range(3))
        self.axis = z
        # rounded, so that subtracting a whole number is exact
        at = [
            np.round(track.at[a:b] * 2**24) / 2**24
            for track, (a, b) in zip(tracks, self.box, strict=True)
        ]
        self._flip = len(at[z]) > 1 and at[z][0] > at[z][-1]
        self.ascending = not self._flip
        self._at: NDArray[np.float64] = at[z][::-1] if self._flip else at[z]
        self._plane = (at[y], at[x])
        self._depth = applied.target.shape_zyx[0]
        self._next = 0
        self._carry: torch.Tensor | None = None

    @property
    def empty(self) -> bool:
        """Whether a crop removed the whole scan."""
        return any(b <= a for a, b in self.box)

    @property
    def plane(self) -> int:
        """Voxels in a slice of a piece."""
        return len(self._plane[0]) * len(self._plane[1])

    def start_at(self, first: int) -> None:
        """Skip the slices before this one, in the network's order."""
        self._next = first

    def box_slices(self, first: int, stop: int) -> tuple[int, int]:
        """Convert a range of the scan's slices along `axis` to slices of the box, in the network's order."""
        low, high = self.box[self.axis]
        a, b = (min(max(n, low), high) - low for n in (first, stop))
        return (self.slices - b, self.slices - a) if self._flip else (a, b)

    @property
    def slices(self) -> int:
        """The number of slices of the box along `axis`."""
        return len(self._at)

    def network_span(self, first: int, stop: int) -> tuple[int, int]:
        """The slices of the network's grid that slices `first` to `stop` (in the network's order) depend on."""
        low = int(np.clip(np.floor(self._at[first]), 0, self._depth - 1))
        high = int(np.clip(np.ceil(self._at[stop - 1]) + 1, low + 1, self._depth))
        return low, high

    def slices_before(self, end: int) -> int:
        """The number of slices, in the network's order, that only need slices of the network's grid before `end`."""
        whole = end >= self._depth
        return self.slices if whole else int(np.searchsorted(self._at, end - 1, "right"))

    def feed(
        self, start: int, low_czyx: torch.Tensor, stop: int | None = None
    ) -> Iterator[GridPiece]:
        """Take the next slab of logits and yield the pieces that are complete with it.

        Args:
            start: its first slice on the network's grid.
            low_czyx: [K, slices, Y, X]; pieces are views of it.
            stop: skip the slices of the scan from this one on, in the network's order.
        """
        end = start + low_czyx.shape[1]
        ready = self.slices_before(end)
        ready = ready if stop is None else min(ready, stop)
        between = int(np.searchsorted(self._at, start, "left"))
        if self._carry is not None and min(between, ready) > self._next:
            both = torch.cat([self._carry, low_czyx[:, :1]], 1)
            yield self._piece(self._next, min(between, ready), start - 1, both)
        if ready > self._next:
            yield self._piece(self._next, ready, start, low_czyx)
        if end < self._depth:
            self._carry = low_czyx[:, -1:].clone()

    def _piece(self, first: int, stop: int, origin: int, low: torch.Tensor) -> GridPiece:
        self._next = stop
        at = self._at[first:stop] - origin
        begin = len(self._at) - stop if self._flip else first
        return GridPiece(begin, low, (at, *self._plane), self._flip)

    def to_source_axes(self, piece: GridPiece, result: torch.Tensor) -> NDArray[np.generic]:
        """Reorder a result [.., z, y, x] along the network's axes to the axes of the scan."""
        front = result.ndim - 3
        if piece.flip:
            result = result.flip(front)
        axes = [*range(front), *(front + axis for axis in self._order)]
        out: NDArray[np.generic] = result.permute(axes).cpu().numpy()
        return out
