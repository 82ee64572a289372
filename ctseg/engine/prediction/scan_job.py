"""`ScanJob`: predicts one scan from its files to its result files, slab by slab."""

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
from ctseg.engine.prediction.result_files import OutputTransaction, ResultWriter
from ctseg.engine.prediction.result_files import ResultSpec as ResultSpec
from ctseg.engine.prediction.writer_options import writer_options
from ctseg.files import disk_errors
from ctseg.specs import ImageRef
from ctseg.volume.geometry import Geometry

if TYPE_CHECKING:
    from ctseg.engine.inference.model import Model


def predict_scan(
    model: Model,
    images: Sequence[ImageRef],
    results: Sequence[ResultSpec],
    *,
    on_tiles: OnTiles | None = None,
) -> Geometry:
    """Predict a scan into one or more files.

    Returns:
        the geometry of the scan and its results.

    Raises:
        CtsegError: a problem with the scan or the disk; then no result file appears.
    """
    with ScanJob(model, images, results) as job:
        job.open()
        job.run(on_tiles)
        return job.finish()


class ScanJob:
    """The prediction of one scan in three steps (`open`, `run`, `finish`), each of which may run in another thread.

    A result is written straight to its file if its slices come in the order of the file and need no post-processing;
    otherwise it is buffered in memory, or in a temporary file in the folder of the first result.

    Args:
        writer_pool: a pool of one thread that writes results while the network runs; without it, writing and network
            take turns.
        shared_scan: coordinates several processes that predict the scan together; the first one writes the results.

    Attributes:
        notes: notes about oddities of the scan; set by `open`.
        model: may be replaced between `open` and `run` to change the tiling.
        seconds: time spent so far on reading (including preprocessing), the network, and writing; reading and writing
            may overlap with the network.
    """

    def __init__(
        self,
        model: Model,
        images: Sequence[ImageRef],
        results: Sequence[ResultSpec],
        *,
        writer_pool: ThreadPoolExecutor | None = None,
        shared_scan: SharedScan | None = None,
    ) -> None:
        self.images, self.results = images, results
        self.model, self._writer_pool, self._shared_scan = model, writer_pool, shared_scan
        self._stack = ExitStack()
        self._writers: list[ResultWriter] = []
        self._sinks: list[TimedSink | BackgroundSink] = []
        self.seconds = {"reading": 0.0, "network": 0.0, "writing": 0.0}

    def __enter__(self) -> ScanJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Open the scan, compute statistics that need all of it, and open the result files."""
        begun = time.monotonic()
        folder = self.results[0].folder
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        scan = OnDisk(self.images, folder)
        self._stack.callback(scan.close)
        self.stream = self.model.open(scan, folder)
        self.geometry, self.notes = scan.geometry, scan.notes
        self._mapper = SourceGridMapper(self.stream.applied)
        self._files = OutputTransaction(
            scan.geometry, scan.reference, partial(writer_options, self.model.card)
        )
        self._stack.callback(self._files.abort)
        for spec in self.results if self._writes else ():
            writer = ResultWriter(spec, self._mapper, scan.geometry, self._files)
            writer.open(folder, scan)
            self._writers.append(writer)
        self.seconds["reading"] += time.monotonic() - begun

    @property
    def _writes(self) -> bool:
        """Whether this process writes the results."""
        return self._shared_scan is None or self._shared_scan.leads

    def run(self, on_tiles: OnTiles | None = None) -> None:
        """Run the network over the scan."""
        begun = time.monotonic()
        self._sinks = [
            TimedSink(writer.sink)
            if self._writer_pool is None
            else BackgroundSink(writer.sink, self._writer_pool)
            for writer in self._writers
        ]
        decoders = [spec.decoder for spec in self.results]
        predictor = self.model.predictor
        if self._shared_scan is None:
            pairs = list(zip(decoders, self._sinks, strict=True))
            predictor.run(self.stream, pairs, mapper=self._mapper, on_tiles=on_tiles)
        else:
            sinks: list[Sink | None] = [*self._sinks] or [None] * len(decoders)
            self._shared_scan.run(
                predictor, self.stream, list(zip(decoders, sinks, strict=True)),
                mapper=self._mapper, folder=self.results[0].folder, on_tiles=on_tiles,
            )  # fmt: skip
        elapsed = time.monotonic() - begun
        writing = sum(sink.seconds for sink in self._sinks)
        if self.model.runtime.device.type == "cpu":  # on a GPU slabs are read in the background
            elapsed -= self.stream.seconds
        self.seconds["reading"] += self.stream.seconds
        self.seconds["network"] += elapsed if self._writer_pool else elapsed - writing

    def finish(self) -> Geometry:
        """Post-process and write buffered results, and commit all files."""
        for sink in self._sinks:
            sink.join()
        begun = time.monotonic()
        for writer in self._writers:
            writer.postprocess()
        for writer in self._writers:
            writer.write()
        self._files.commit()
        self.close()
        written = sum(sink.seconds for sink in self._sinks)
        self.seconds["writing"] += written + time.monotonic() - begun
        return self.geometry

    def close(self) -> None:
        """Close the scan and remove result files that are not committed."""
        for sink in self._sinks:
            sink.drop()
        self._stack.close()
