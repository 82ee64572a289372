"""A scan as the network sees it, made slab by slab from its files, however long it is.

What the steps must know of the whole scan is collected in streamed passes first. A step that needs all of it at once
(a filled mask, say) is done on the whole scan, which then lies in a temporary file.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ctseg.data.pipeline import AppliedPipeline, AppliedStep, Pipeline
from ctseg.data.steps.base import Array, Box
from ctseg.errors import BadInput
from ctseg.specs import ImageRef, VolumeSource
from ctseg.volume.geometry import Geometry, check_same
from ctseg.volume.io import notes_of, open_ref
from ctseg.volume.scratch import scratch
from ctseg.volume.spool import by_region

PART_BYTES = 2**25
"""Slabs are read and preprocessed in parts of about this size, so that what steps keep besides stays small."""
SLICES, SLICE_SAMPLES = 9, 2**14
"""Slices, and about so many voxels of each, that are looked at to know the range of a scan's values."""


class Scan(Protocol):
    """Boxes of a scan [C, Z, Y, X].

    Attributes:
        modalities: that its files name, e.g. `CT`.
    """

    geometry: Geometry
    channels: int
    dtype: np.dtype[Any]
    modalities: tuple[str, ...]

    def box(self, box: Box) -> Array: ...

    def close(self) -> None: ...


class InMemory:
    """A scan that is an array [C, Z, Y, X], in memory or mapped from a file."""

    def __init__(
        self, array_czyx: Array, geometry: Geometry, where: str = "The scan",
        modalities: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.array, self.geometry, self._where = array_czyx, geometry, where
        self.modalities = modalities
        self.channels, self.dtype = len(array_czyx), array_czyx.dtype

    def box(self, box: Box) -> Array:
        (z, z1), (y, y1), (x, x1) = box
        return _finite(self.array[:, z:z1, y:y1, x:x1], self._where)

    def close(self) -> None:
        pass


class OnDisk:
    """The channels of a scan in one file or several, read by region; compressed ones are unpacked beside `folder`.

    Args:
        images: one reference with all channels, or one for each.
        folder: where compressed files are unpacked; the system's temporary folder by default.

    Attributes:
        notes: what reading found odd, e.g. a header that contradicts itself.

    Raises:
        FileProblem: missing or damaged.
        GeometryMismatch: the channels do not lie on one grid.
    """

    def __init__(self, images: Sequence[ImageRef], folder: Path | None = None) -> None:
        if not images:
            raise BadInput("A case needs at least one image.")
        self._open = ExitStack()
        self.reference: VolumeSource
        sources: list[VolumeSource] = []
        try:
            for number, ref in enumerate(images):
                source = open_ref(ref)
                self._open.callback(source.close)
                if number == 0:
                    grid = source.geometry
                if ref.onto is None and not hasattr(self, "reference"):
                    self.reference = source
                check_same(
                    source.geometry,
                    grid,
                    names=(str(ref.path), str(images[0].path)),
                    files=(ref.path, images[0].path),
                    tolerance=ref.grid_tolerance,
                )
                read = by_region(source, folder)
                if read is not source:
                    self._open.callback(read.close)
                sources.append(read)
        except BaseException:
            self.close()
            raise
        self._sources = sources
        self._turn = threading.Lock()
        self.notes = notes_of(sources)
        self.geometry = grid
        self.channels = sum(source.channels for source in sources)
        self.dtype = np.result_type(*(source.dtype for source in sources))
        self.modalities = tuple(
            dict.fromkeys(name for source in sources if (name := modality_of(source.metadata)))
        )

    def box(self, box: Box) -> Array:
        (z, z1), (y, y1), (x, x1) = box
        with self._turn:  # the network's slabs and those of results are read in different threads
            parts = [
                _finite(source.read_box((z, y, x), (z1, y1, x1)), str(source.path))
                for source in self._sources
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def close(self) -> None:
        self._open.close()


def modality_of(metadata: Mapping[str, Any]) -> str:
    """The modality that a file names, in capitals, e.g. `CT`; empty where it does not."""
    found = metadata.get("modality") or metadata.get("Modality") or ""
    return str(found).strip().upper()


def intensity_ranges(scan: Scan) -> tuple[tuple[float, float], ...]:
    """Percentiles 0.5 and 99.5 of each channel over some of the slices."""
    depth, y, x = scan.geometry.shape_zyx
    every = max(1, math.isqrt(y * x // SLICE_SAMPLES))
    planes = []
    for z in sorted({round(float(at)) for at in np.linspace(0, depth - 1, SLICES)}):
        plane = scan.box(((z, z + 1), (0, y), (0, x)))[:, 0, ::every, ::every]
        planes.append(plane.reshape(len(plane), -1))
    low, high = np.percentile(np.concatenate(planes, 1).astype(np.float64), (0.5, 99.5), axis=1)
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


class Stream:
    """A preprocessed scan, float32 [C, Z, Y, X], of which slabs are made as they are asked for.

    Args:
        scan: the scan as it is, or as it is after the first `done` steps.
        applied: the way of the scan through all steps.
        done: how many steps lie behind the scan already.

    Attributes:
        scan_channels: the first channels, which are of the scan; labels of an earlier model may follow.
        seconds: spent in `read` by now.
    """

    def __init__(self, scan: Scan, applied: AppliedPipeline, done: int = 0) -> None:
        self._scan, self.applied, self._done = scan, applied, done
        self.scan_channels = scan.channels
        self.shape_czyx = (scan.channels, *applied.target.shape_zyx)
        self._last: tuple[int, Array] | None = None
        self.seconds = 0.0

    def read(
        self, start: int, stop: int, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The slices from start to before stop, in `out` or in a new array [C, stop - start, Y, X].

        They are made in blocks that lie the same whatever is asked for, so that a slice is the same bit for bit, too.
        """
        begun = time.monotonic()
        channels, _, y, x = self.shape_czyx
        if out is None:
            out = np.empty((channels, stop - start, y, x), np.float32)
        for a, b in self.blocks(start, stop):
            low, high = max(a, start), min(b, stop)
            out[:, low - start : high - start] = self._block(a, b)[:, low - a : high - a]
        self.seconds += time.monotonic() - begun
        return out

    def _block(self, start: int, stop: int) -> Array:
        """A block, or the last one again: what is read next often begins within it."""
        if self._last is None or self._last[0] != start:
            _, _, y, x = self.shape_czyx
            self._last = (start, self.box(((start, stop), (0, y), (0, x))))
        return self._last[1]

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The blocks of slices that hold these; making one takes little memory."""
        depth, y, x = self.shape_czyx[1:]
        whole = ((0, depth), (0, y), (0, x))
        worst = max(_voxels(box) for box in self._way_back(whole)) * self.shape_czyx[0] * 4
        slices = max(1, math.floor(depth * PART_BYTES / max(worst, 1)))
        for first in range(start // slices * slices, stop, slices):
            yield first, min(first + slices, depth)

    @property
    def part_bytes(self) -> int:
        """About the most that an array takes while a block is made, what resampling needs around it included."""
        _, z, y, x = self.shape_czyx
        span = next(self.blocks(z // 2, z // 2 + 1))
        voxels = max(_voxels(box) for box in self._way_back((span, (0, y), (0, x))))
        return voxels * self.shape_czyx[0] * 4

    def box(self, box: Box) -> Array:
        """A box of the preprocessed scan; it may be a view."""
        boxes = self._way_back(box)
        part = self._scan.box(boxes[0])
        steps = self.applied.steps[self._done :]
        for applied_step, (needed, made) in zip(steps, itertools.pairwise(boxes), strict=True):
            part = applied_step.step.part(
                part, needed, made, applied_step.before, applied_step.record
            )
        return part

    def _way_back(self, box: Box) -> list[Box]:
        """The boxes on each grid from the scan to the network's, where it is the one given."""
        boxes = [box]
        for applied_step in reversed(self.applied.steps[self._done :]):
            boxes.append(
                applied_step.step.input_box(boxes[-1], applied_step.before, applied_step.record)
            )
        return boxes[::-1]

    def close(self) -> None:
        self._scan.close()


def ready(image_czyx: NDArray[np.float32], applied: AppliedPipeline) -> Stream:
    """The stream of a scan that was preprocessed already."""
    return Stream(InMemory(image_czyx, applied.target), applied, len(applied.steps))


def open_stream(pipeline: Pipeline, scan: Scan, *, folder: Path | None = None) -> Stream:
    """Take a scan through the steps as far as needed to make any slab of it.

    Args:
        folder: where temporary files go, if any are needed.

    Raises:
        BadInput: NaN or infinite values in the scan.
    """
    source, geometry, done = scan.geometry, scan.geometry, 0
    steps: list[AppliedStep] = []
    now = scan
    for step in pipeline.steps:
        before = Stream(now, AppliedPipeline(tuple(steps), source, geometry), done)
        record = step.fit_parts(lambda s=before: _slabs(s), geometry)  # type: ignore[misc]
        whole = None
        if record is None or not step.local:
            whole = _whole(before, folder)
            record = step.fit(whole, geometry) if record is None else record
        steps.append(AppliedStep(step, geometry, record))
        if not step.local:
            assert whole is not None
            image = step.image(whole, geometry, record)
            now, done = InMemory(image, step.grid(geometry, record)), len(steps)
        geometry = step.grid(geometry, record)
    return Stream(now, AppliedPipeline(tuple(steps), source, geometry), done)


def _slabs(stream: Stream) -> Iterator[tuple[int, Array]]:
    _, z, y, x = stream.shape_czyx
    for a, b in stream.blocks(0, z):
        yield a, stream.box(((a, b), (0, y), (0, x)))


def _whole(stream: Stream, folder: Path | None) -> Array:
    """All of a scan as it is at this step, in its own type; in a temporary file where it is large."""
    out: Array | None = None
    for start, part in _slabs(stream):
        if out is None:
            out = scratch(stream.shape_czyx, part.dtype, folder)
        out[:, start : start + part.shape[1]] = part
    assert out is not None
    return out


def _voxels(box: Box) -> int:
    return math.prod(b - a for a, b in box)


def _finite(array: Array, where: str) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput(
            f"{where} holds NaN or infinite values.",
            hint="Replace them in the file, by the value of air for example.",
        )
    return array
