"""From slabs of logits on the network's grid to pieces of results on the scan's own grid."""

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
    """A part of the scan for which all logits are there.

    Attributes:
        start: its first slice along `SourceGridMapper.axis`, within `SourceGridMapper.box`.
        low_czyx: logits on the network's grid, around it.
        positions: where its voxels lie on them, in their voxels along the network's z, y, x.
        flip: whether slices come in the other order on the scan's grid.
    """

    start: int
    low_czyx: torch.Tensor
    positions: Positions
    flip: bool

    def split(self, slices: int) -> Iterator[GridPiece]:
        """The same in parts of at most so many slices."""
        z, y, x = self.positions
        for first in range(0, len(z), slices):
            at = z[first : first + slices]
            # the voxels at and around the positions, so that an axis of 117 classes is not taken through for one slice
            low = int(np.clip(np.floor(at[0]), 0, self.low_czyx.shape[1] - 1))
            high = int(np.clip(np.floor(at[-1]) + 2, low + 1, self.low_czyx.shape[1]))
            start = self.start + (len(z) - first - len(at) if self.flip else first)
            yield GridPiece(start, self.low_czyx[:, low:high], (at - low, y, x), self.flip)


class SourceGridMapper:
    """The way back to the scan's grid, slab by slab.

    Attributes:
        axis: the axis of the scan that runs along the network's z; pieces come along it.
        box: start and stop along each axis of the scan that the network saw; what a crop left out lies around it.
        ascending: whether pieces come from the first slice of the scan to the last.
    """

    def __init__(self, applied: AppliedPipeline) -> None:
        tracks = tracks_of(applied)
        self._order = tuple(track.axis for track in tracks)
        self.box = spans_of(tracks)
        self.source: Zyx = applied.source.shape_zyx
        z, y, x = (self._order.index(axis) for axis in range(3))
        self.axis = z
        # so that they stay the same to the last bit when a whole number is taken off
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
        """Whether a crop left nothing of the scan."""
        return any(b <= a for a, b in self.box)

    @property
    def plane(self) -> int:
        """Voxels of a slice of a piece."""
        return len(self._plane[0]) * len(self._plane[1])

    def start_at(self, first: int) -> None:
        """Leave out the slices before this one, counted as the network meets them."""
        self._next = first

    def pieces_of(self, first: int, stop: int) -> tuple[int, int]:
        """Slices of the scan along `axis`, as those of the box, counted as the network meets them."""
        low, high = self.box[self.axis]
        a, b = (min(max(n, low), high) - low for n in (first, stop))
        return (self.slices - b, self.slices - a) if self._flip else (a, b)

    @property
    def slices(self) -> int:
        """Slices of the box along `axis`."""
        return len(self._at)

    def network_span(self, first: int, stop: int) -> tuple[int, int]:
        """The slices of the network's grid around those from `first` to before `stop`, as the network meets them."""
        low = int(np.clip(np.floor(self._at[first]), 0, self._depth - 1))
        high = int(np.clip(np.ceil(self._at[stop - 1]) + 1, low + 1, self._depth))
        return low, high

    def slices_before(self, end: int) -> int:
        """How many slices can be made of those of the network's grid before `end`, as the network meets them."""
        whole = end >= self._depth
        return self.slices if whole else int(np.searchsorted(self._at, end - 1, "right"))

    def feed(
        self, start: int, low_czyx: torch.Tensor, stop: int | None = None
    ) -> Iterator[GridPiece]:
        """Take the logits that follow; give what can be made of them.

        Args:
            start: first slice on the network's grid.
            low_czyx: [K, slices, Y, X]; pieces are views of it.
            stop: leave out the slices of the scan from this one on, counted as the network meets them.
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

    def placed(self, piece: GridPiece, result: torch.Tensor) -> NDArray[np.generic]:
        """A result [.., z, y, x] along the network's axes in the order of the scan's."""
        front = result.ndim - 3
        if piece.flip:
            result = result.flip(front)
        axes = [*range(front), *(front + axis for axis in self._order)]
        out: NDArray[np.generic] = result.permute(axes).cpu().numpy()
        return out
