"""One scan from its files to files of results, slab by slab."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.stream import OnDisk
from ctseg.engine.back import Back
from ctseg.engine.behind import Behind, Inline
from ctseg.engine.products import Product
from ctseg.engine.sinks import Sink, ToArray, ToWriter
from ctseg.engine.slabs import OnTiles
from ctseg.files import disk_errors
from ctseg.specs import ImageRef, Label, VolumeSource, VolumeWriter, frozen
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_writer
from ctseg.volume.scratch import scratch

if TYPE_CHECKING:
    from ctseg.engine.segmenter import Segmenter

SLAB_BYTES = 2**26
Finish = Callable[[NDArray[Any], Geometry], None]


@dataclass(frozen=True)
class Wanted:
    """A result and the file that it goes to.

    Attributes:
        path: the file; it appears when it is whole.
        product: what is made.
        labels: names and colours, for formats that hold them.
        finish: changes the whole result before it is written (post-processing), an array [Z, Y, X] that may lie on
            disk; None for nothing.
        on_slab: called with each slab as it is written, e.g. to count voxels.
        options: of the format's writer.
    """

    path: Path
    product: Product
    labels: tuple[Label, ...] = ()
    finish: Finish | None = None
    on_slab: Callable[[NDArray[Any]], None] | None = None
    options: Mapping[str, Any] = field(default_factory=frozen)


def predict_scan(
    segmenter: Segmenter,
    images: Sequence[ImageRef],
    wanted: Sequence[Wanted],
    *,
    on_tiles: OnTiles | None = None,
) -> Geometry:
    """Predict a scan into one file or several.

    Returns:
        the geometry of scan and results.

    Raises:
        CtsegError: whatever is wrong with the scan or the disk; no result has its name then.
    """
    with ScanJob(segmenter, images, wanted) as job:
        job.open()
        job.run(on_tiles)
        return job.finish()


class ScanJob:
    """A scan on its way to its files, in three steps, each of which may run in a thread of its own.

    A result goes straight into its file where slices come in the order of the file and nothing changes them
    afterwards; otherwise it waits in memory, or in a temporary file beside the first result.

    Args:
        behind: the one thread in which results are written while the network works on; without it they are written
            in between.

    Attributes:
        seconds: spent by now on reading (preprocessing included), the network, and writing; where reading or writing
            happen beside the network, the three overlap.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        images: Sequence[ImageRef],
        wanted: Sequence[Wanted],
        *,
        behind: ThreadPoolExecutor | None = None,
    ) -> None:
        self.images, self.wanted = images, wanted
        self._segmenter, self._behind = segmenter, behind
        self._stack = ExitStack()
        self._outlets: list[_Outlet] = []
        self._sinks: list[Inline | Behind] = []
        self.seconds = {"reading": 0.0, "network": 0.0, "writing": 0.0}

    def __enter__(self) -> ScanJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Read what must be known of the whole scan, and open the files of the results."""
        begun = time.monotonic()
        folder = self.wanted[0].path.parent
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        scan = OnDisk(self.images, folder)
        self._stack.callback(scan.close)
        self.stream = self._segmenter.stream_of(scan, folder)
        self.geometry = scan.geometry
        self._back = Back(self.stream.trail)
        for one in self.wanted:
            outlet = _Outlet(one, self._back, scan.geometry, scan.reference, self._segmenter)
            self._stack.callback(outlet.abort)
            outlet.open(folder)
            self._outlets.append(outlet)
        self.seconds["reading"] += time.monotonic() - begun

    def run(self, on_tiles: OnTiles | None = None) -> None:
        """Take the scan through the network."""
        begun = time.monotonic()
        sinks = [outlet.sink for outlet in self._outlets]
        self._sinks = [
            Inline(s) if self._behind is None else Behind(s, self._behind) for s in sinks
        ]
        pairs = [(one.product, sink) for one, sink in zip(self.wanted, self._sinks, strict=True)]
        self._segmenter.engine.run(self.stream, pairs, back=self._back, on_tiles=on_tiles)
        took = time.monotonic() - begun
        writing = sum(sink.seconds for sink in self._sinks)
        if self._segmenter.runtime.device.type == "cpu":  # elsewhere slabs are read meanwhile
            took -= self.stream.seconds
        self.seconds["reading"] += self.stream.seconds
        self.seconds["network"] += took if self._behind else took - writing

    def finish(self) -> Geometry:
        """Complete the files and give them their names."""
        begun = time.monotonic()
        for sink in self._sinks:
            sink.join()
        for outlet in self._outlets:
            outlet.finish()
        for outlet in self._outlets:
            outlet.commit()
        self.close()
        written = sum(sink.seconds for sink in self._sinks)
        self.seconds["writing"] += written + time.monotonic() - begun
        return self.geometry

    def close(self) -> None:
        """Release the scan; of results without a name nothing stays."""
        for sink in self._sinks:
            sink.drop()
        self._stack.close()


class _Outlet:
    """The way of one result to its file."""

    def __init__(
        self, wanted: Wanted, back: Back, geometry: Geometry, reference: VolumeSource, segmenter: Segmenter
    ) -> None:  # fmt: skip
        self.wanted, self._back, self._geometry = wanted, back, geometry
        self._reference = reference
        self._options = {**segmenter.writer_options(wanted.path), **wanted.options}
        self._writer: VolumeWriter | None = None
        self.sink: Sink
        self._waiting: NDArray[Any] | None = None

    def open(self, folder: Path) -> None:
        """Open the file, so that a place that cannot be written is known before the network runs."""
        one, product = self.wanted, self.wanted.product
        self._writer = open_writer(
            one.path, self._geometry, np.dtype(product.dtype), channels=product.channels,
            labels=one.labels, reference=self._reference, options=self._options,
        )  # fmt: skip
        if self._back.axis == 0 and self._back.ascending and one.finish is None:
            self.sink = ToWriter(
                _Counted(self._writer, one.on_slab), self._back.source, self._back.box,
                product.dtype, product.channels, product.fill,
            )  # fmt: skip
            return
        front = () if product.channels is None else (product.channels,)
        self._waiting = scratch((*front, *self._back.source), product.dtype, folder)
        self.sink = ToArray(self._waiting, self._back.box, product.fill)

    def finish(self) -> None:
        """Write what waited."""
        assert self._writer is not None
        if isinstance(self.sink, ToWriter):
            self.sink.close()
            return
        array = self._waiting
        assert array is not None
        if self.wanted.finish is not None:
            self.wanted.finish(array, self._geometry)
        writer = _Counted(self._writer, self.wanted.on_slab)
        depth = array.shape[-3]
        slices = max(1, SLAB_BYTES * depth // max(array.nbytes, 1))
        for start in range(0, depth, slices):
            writer.write(start, np.ascontiguousarray(array[..., start : start + slices, :, :]))

    def commit(self) -> None:
        assert self._writer is not None
        self._writer.commit()
        self._writer = None

    def abort(self) -> None:
        """Leave nothing behind, unless it was committed."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None


class _Counted:
    """A writer whose slabs somebody else sees, too."""

    def __init__(
        self, writer: VolumeWriter, on_slab: Callable[[NDArray[Any]], None] | None
    ) -> None:
        self._writer, self._on_slab = writer, on_slab

    def write(self, start: int, slab: NDArray[Any]) -> None:
        self._writer.write(start, slab)
        if self._on_slab is not None:
            self._on_slab(slab)

    def commit(self) -> None:
        self._writer.commit()

    def abort(self) -> None:
        self._writer.abort()
