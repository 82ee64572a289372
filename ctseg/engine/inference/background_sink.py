"""Writing results in another thread while the network works on the next slabs."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.inference.sinks import Sink

PIECES = 4
"""So many pieces may wait to be written; they bound the memory where the disk is slower than the network."""


class Inline:
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


class Behind(Inline):
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
