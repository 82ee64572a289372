"""One scan from its files to files of results, slab by slab."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from ctseg.data.stream import OnDisk
from ctseg.engine.inference.sinks import BackgroundSink, Sink, TimedSink
from ctseg.engine.inference.sliding_window import OnTiles
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.prediction.multiprocess.slab_sharing import SharedScan
from ctseg.engine.prediction.outputs import writer_options
from ctseg.engine.prediction.result_files import OutputTransaction, ResultWriter
from ctseg.engine.prediction.result_files import ResultSpec as ResultSpec
from ctseg.files import disk_errors
from ctseg.specs import ImageRef
from ctseg.volume.geometry import Geometry

if TYPE_CHECKING:
    from ctseg.engine.inference.model import Model


def predict_scan(
    model: Model,
    images: Sequence[ImageRef],
    wanted: Sequence[ResultSpec],
    *,
    on_tiles: OnTiles | None = None,
) -> Geometry:
    """Predict a scan into one file or several.

    Returns:
        the geometry of scan and results.

    Raises:
        CtsegError: whatever is wrong with the scan or the disk; no result has its name then.
    """
    with ScanJob(model, images, wanted) as job:
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
        share: how several processes make the scan together; the first of them writes the results.

    Attributes:
        notes: what reading the scan found odd; there once it is open.
        model: may be changed between `open` and `run`, for another tiling.
        seconds: spent by now on reading (preprocessing included), the network, and writing; where reading or writing
            happen beside the network, the three overlap.
    """

    def __init__(
        self,
        model: Model,
        images: Sequence[ImageRef],
        wanted: Sequence[ResultSpec],
        *,
        behind: ThreadPoolExecutor | None = None,
        share: SharedScan | None = None,
    ) -> None:
        self.images, self.wanted = images, wanted
        self.model, self._behind, self._share = model, behind, share
        self._stack = ExitStack()
        self._outlets: list[ResultWriter] = []
        self._sinks: list[TimedSink | BackgroundSink] = []
        self.seconds = {"reading": 0.0, "network": 0.0, "writing": 0.0}

    def __enter__(self) -> ScanJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Read what must be known of the whole scan, and open the files of the results."""
        begun = time.monotonic()
        folder = self.wanted[0].folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        scan = OnDisk(self.images, folder)
        self._stack.callback(scan.close)
        self.stream = self.model.open(scan, folder)
        self.geometry, self.notes = scan.geometry, scan.notes
        self._back = SourceGridMapper(self.stream.applied)
        self._files = OutputTransaction(
            scan.geometry, scan.reference, partial(writer_options, self.model.card)
        )
        self._stack.callback(self._files.abort)
        for one in self.wanted if self._writes else ():
            outlet = ResultWriter(one, self._back, scan.geometry, self._files)
            outlet.open(folder)
            self._outlets.append(outlet)
        self.seconds["reading"] += time.monotonic() - begun

    @property
    def _writes(self) -> bool:
        """Whether results are written by this process."""
        return self._share is None or self._share.leads

    def run(self, on_tiles: OnTiles | None = None) -> None:
        """Take the scan through the network."""
        begun = time.monotonic()
        sinks = [outlet.sink for outlet in self._outlets]
        self._sinks = [
            TimedSink(s) if self._behind is None else BackgroundSink(s, self._behind) for s in sinks
        ]
        products = [one.product for one in self.wanted]
        engine = self.model.predictor
        if self._share is None:
            pairs = list(zip(products, self._sinks, strict=True))
            engine.run(self.stream, pairs, back=self._back, on_tiles=on_tiles)
        else:
            sinks_or_not: list[Sink | None] = [*self._sinks] or [None] * len(products)
            wanted = list(zip(products, sinks_or_not, strict=True))
            self._share.run(
                engine, self.stream, wanted, back=self._back, folder=self.wanted[0].folder,
                on_tiles=on_tiles,
            )  # fmt: skip
        took = time.monotonic() - begun
        writing = sum(sink.seconds for sink in self._sinks)
        if self.model.runtime.device.type == "cpu":  # elsewhere slabs are read meanwhile
            took -= self.stream.seconds
        self.seconds["reading"] += self.stream.seconds
        self.seconds["network"] += took if self._behind else took - writing

    def finish(self) -> Geometry:
        """Complete the files and give them their names."""
        for sink in self._sinks:
            sink.join()
        begun = time.monotonic()
        for outlet in self._outlets:
            outlet.change()
        for outlet in self._outlets:
            outlet.write()
        self._files.commit()
        self.close()
        written = sum(sink.seconds for sink in self._sinks)
        self.seconds["writing"] += written + time.monotonic() - begun
        return self.geometry

    def close(self) -> None:
        """Release the scan; of results without a name nothing stays."""
        for sink in self._sinks:
            sink.drop()
        self._stack.close()
