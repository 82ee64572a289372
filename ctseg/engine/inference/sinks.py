"""Where pieces of a result go: an array, or a file that is written from the first slice to the last."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctseg.data.steps.base import Box
from ctseg.specs import VolumeWriter, Zyx
from ctseg.volume.memory_map import drop_pages

PIECES = 4
"""So many pieces may wait to be written; they bound the memory where the disk is slower than the network."""


class Sink(Protocol):
    """Takes pieces along one axis."""

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        """A part [.., z, y, x] of the box that the network saw, from `start` (within the box) along an axis on."""
        ...


class ToArray:
    """Into an array [.., Z, Y, X] of the scan's size, in any order.

    Args:
        array: in memory or mapped; it is filled where it lies outside of the box.
        box: what the network saw.
        fill: [channels or 1].
    """

    def __init__(self, array: NDArray[Any], box: Box, fill: NDArray[Any]) -> None:
        self.array, self._box = array, box
        shape = array.shape[-3:]
        if tuple(box) != tuple((0, n) for n in shape) and np.any(fill):
            value = fill.reshape([-1] + [1] * 2) if array.ndim == 4 else fill.reshape(1, 1)
            for z in range(shape[0]):
                array[..., z, :, :] = value

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        spans: list[Any] = [
            slice(a, a + n) for (a, _), n in zip(self._box, part.shape[-3:], strict=True)
        ]
        first = self._box[axis][0] + start
        spans[axis] = slice(first, first + part.shape[part.ndim - 3 + axis])
        self.array[(..., *spans)] = part
        if (
            axis == 0
        ):  # later pieces lie elsewhere; of a mapped file these pages need not stay in memory
            for planes in self.array if self.array.ndim == 4 else [self.array]:
                drop_pages(planes[spans[0]])


class ToWriter:
    """Straight into a file; for pieces along z in ascending order.

    Args:
        box: what the network saw; slices before and after it are filled, too.
        fill: [channels or 1].
    """

    def __init__(
        self, writer: VolumeWriter, shape_zyx: Zyx, box: Box, product_dtype: str,
        channels: int | None, fill: NDArray[Any],
    ) -> None:  # fmt: skip
        self._writer, self._shape, self._box = writer, shape_zyx, box
        self._dtype, self._channels, self._fill = np.dtype(product_dtype), channels, fill
        self._next = 0

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        assert axis == 0
        first = self._box[0][0] + start
        self._blank(first)
        (_, _), (y, y1), (x, x1) = self._box
        if (y1 - y, x1 - x) != self._shape[1:]:
            slab = self._filled(part.shape[-3])
            slab[..., y:y1, x:x1] = part
            part = slab
        self._writer.write(first, np.ascontiguousarray(part, self._dtype))
        self._next = first + part.shape[-3]

    def close(self) -> None:
        """Fill the slices after the last piece."""
        self._blank(self._shape[0])

    def _blank(self, stop: int) -> None:
        for z in range(self._next, stop):
            self._writer.write(z, self._filled(1))
        self._next = max(self._next, stop)

    def _filled(self, slices: int) -> NDArray[Any]:
        plane = (slices, *self._shape[1:])
        if self._channels is None:
            return np.full(plane, self._fill[0], self._dtype)
        out = np.empty((self._channels, *plane), self._dtype)
        out[:] = self._fill[:, None, None, None]
        return out


class TimedSink:
    """A sink whose time is taken.

    Attributes:
        seconds: spent writing by now.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.seconds = 0.0

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        begun = time.monotonic()
        self._sink.put(axis, start, part)
        self.seconds += time.monotonic() - begun

    def join(self) -> None:
        """Wait until all is written."""

    def drop(self) -> None:
        """Forget what was not written yet."""


class BackgroundSink(TimedSink):
    """The same in another thread, piece by piece in their order.

    Args:
        pool: of one thread.
    """

    def __init__(self, sink: Sink, pool: ThreadPoolExecutor) -> None:
        super().__init__(sink)
        self._pool = pool
        self._waiting: deque[Future[None]] = deque()

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        """Leave a piece to be written; what went wrong with an earlier one is raised here or by `join`."""
        while len(self._waiting) >= PIECES:
            self._waiting.popleft().result()
        own = np.array(
            part, order="C"
        )  # a piece may be a view of what the network writes over next
        self._waiting.append(self._pool.submit(super().put, axis, start, own))

    def join(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

    def drop(self) -> None:
        for piece in self._waiting:
            piece.cancel()
        wait(self._waiting)  # the one under way still uses the file
        self._waiting.clear()
