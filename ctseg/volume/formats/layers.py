"""3D Slicer segmentations with overlapping segments: several layers in one file, read as one channel per segment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.specs import Zyx
from ctseg.volume.formats.raw import UnpackTarget
from ctseg.volume.formats.source import ScanHeader, Source
from ctseg.volume.labels import Segment, segments_in


def by_segment(source: Source) -> Source:
    """The source itself, or, if its segments lie in several layers, one channel of 0 and 1 per segment.

    Raises:
        FileProblem: a segment is in a layer that the file does not have.
    """
    segments = segments_in(source.metadata)
    if source.channels < 2 or not segments:
        return source
    for segment in segments:
        if not 0 <= segment.layer < source.channels:
            raise FileProblem(
                f"{source.path}: the segment '{segment.name}' lies in layer {segment.layer}, but the file has "
                f"{source.channels} layers.",
                hint="Save the segmentation again in 3D Slicer.",
            )
    names = ", ".join(segment.name for segment in segments)
    note = (
        f"{source.channels} layers of segments that may overlap, read as one channel each: {names}"
    )
    metadata = {
        **source.metadata,
        "channel_names": [segment.name for segment in segments],
        "notes": [*source.metadata.get("notes", ()), note],
    }
    return _segments(source, segments, metadata)


def _segments(source: Source, segments: tuple[Segment, ...], metadata: dict[str, Any]) -> Source:
    def cut(layers: NDArray[Any]) -> NDArray[Any]:
        return np.stack([layers[one.layer] == one.value for one in segments]).view(np.uint8)

    def load(start: int, stop: int) -> NDArray[Any]:
        return cut(source.read((start, stop)))

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        return cut(source.read_box(start, stop))

    def unpack(target: UnpackTarget) -> Source:
        assert source.unpack is not None
        return _segments(source.unpack(target), segments, metadata)

    return Source(
        source.path,
        ScanHeader(source.geometry, np.uint8, len(segments), source.by_region, metadata),
        load,
        load_box=load_box,
        unpack=None if source.unpack is None else unpack,
        close=source.close,
    )
