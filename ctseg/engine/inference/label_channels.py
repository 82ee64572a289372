"""The labels of a first model as further channels of a second one, as in nnU-Net's cascade."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctseg.data.pipeline import follow_label
from ctseg.data.steps.base import Array, Box
from ctseg.data.stream import Scan, Stream
from ctseg.engine.inference.decoders import LabelMap
from ctseg.engine.inference.model import Model
from ctseg.engine.inference.sinks import ToArray
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.volume.scratch import scratch


class WithLabels(Stream):
    """A preprocessed scan with a channel of 0 and 1 behind it for each label.

    Args:
        stream: of the scan.
        labels_zyx: a label map on the scan's own grid.
        values: of the labels, one a channel.
    """

    def __init__(
        self, stream: Stream, labels_zyx: NDArray[np.generic], values: Sequence[int]
    ) -> None:
        super().__init__(stream._scan, stream.applied, stream._done)
        channels, *shape = self.shape_czyx
        z, y, x = shape
        self._labels = follow_label(stream.applied, labels_zyx[None])[0]
        self._values = np.asarray(values, self._labels.dtype).reshape(-1, 1, 1, 1)
        self.shape_czyx = (channels + len(values), z, y, x)

    def box(self, box: Box) -> Array:
        part = super().box(box)
        z, y, x = (slice(a, b) for a, b in box)
        shown = (self._labels[z, y, x] == self._values).astype(np.float32)
        return np.concatenate([part, shown])


def label_map(model: Model, scan: Scan, folder: Path | None = None) -> NDArray[np.generic]:
    """The label map of a scan on its own grid; in a temporary file where it is large."""
    stream, decoder = model.open(scan, folder), LabelMap(model.task)
    mapper = SourceGridMapper(stream.applied)
    out = scratch(mapper.source, np.dtype(decoder.dtype), folder)
    model.predictor.run(stream, [(decoder, ToArray(out, mapper.box, decoder.fill))], mapper=mapper)
    return out
