"""Sinks: take the pieces of a result and put them in an array, or in a file that is written slice by slice."""

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

MAX_QUEUED = 4
"""The most pieces that wait to be written; this bounds the memory if the disk is slower than the network."""


class Sink(Protocol):
    """Takes the pieces of a result, which follow each other along one axis."""

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        """Take a piece [.., z, y, x] of the predicted box, which begins at `start` (within the box) along an axis."""
        ...


class ToArray:
    """Writes pieces to an array [.., Z, Y, X] of the scan's size, in any order.

    Args:
        array: in memory or memory-mapped; set to `fill` outside the box.
        box: the predicted box of the scan.
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
        if axis == 0:
            # later pieces lie elsewhere, so a mapped file may drop these pages from memory
            for planes in self.array if self.array.ndim == 4 else [self.array]:
                drop_pages(planes[spans[0]])


class ToWriter:
    """Writes pieces straight to a file, for pieces along z in ascending order.

    Args:
        box: the predicted box of the scan; voxels outside it are set to `fill`.
        fill: [channels or 1].
    """

    def __init__(
        self, writer: VolumeWriter, shape_zyx: Zyx, box: Box, dtype: str,
        channels: int | None, fill: NDArray[Any],
    ) -> None:  # fmt: skip
        self._writer, self._shape, self._box = writer, shape_zyx, box
        self._dtype, self._channels, self._fill = np.dtype(dtype), channels, fill
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
    """Passes pieces on to a sink and measures the time that it takes.

    Attributes:
        seconds: time spent writing so far.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.seconds = 0.0

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        begun = time.monotonic()
        self._sink.put(axis, start, part)
        self.seconds += time.monotonic() - begun

    def join(self) -> None:
        """Wait until all pieces are written."""

    def drop(self) -> None:
        """Discard the pieces that are still queued."""


class BackgroundSink(TimedSink):
    """Writes pieces in another thread, in order.

    Args:
        pool: a pool of one thread.
    """

    def __init__(self, sink: Sink, pool: ThreadPoolExecutor) -> None:
        super().__init__(sink)
        self._pool = pool
        self._queue: deque[Future[None]] = deque()

    def put(self, axis: int, start: int, part: NDArray[Any]) -> None:
        """Queue a piece; errors of earlier pieces are raised here or by `join`."""
        while len(self._queue) >= MAX_QUEUED:
            self._queue.popleft().result()
        # a copy, since the piece may be a view of memory that is overwritten next
        copy = np.array(part, order="C")
        self._queue.append(self._pool.submit(super().put, axis, start, copy))

    def join(self) -> None:
        while self._queue:
            self._queue.popleft().result()

    def drop(self) -> None:
        for piece in self._queue:
            piece.cancel()
        wait(self._queue)  # the running one still uses the file
        self._queue.clear()
