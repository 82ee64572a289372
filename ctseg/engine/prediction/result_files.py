"""Writes each result straight to its file or, if it still needs post-processing, through a buffer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctseg.engine.inference.decoders import Decoder
from ctseg.engine.inference.sinks import Sink, ToArray, ToWriter
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.engine.prediction.companions import Companion
from ctseg.files import write_text
from ctseg.specs import Label, VolumeSource, VolumeWriter, frozen
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader
from ctseg.volume.io import open_writer
from ctseg.volume.memory_map import drop_pages
from ctseg.volume.scratch import scratch

if TYPE_CHECKING:
    from ctseg.data.stream import OnDisk

SLAB_BYTES = 2**25
Derive = Callable[[NDArray[Any]], NDArray[Any]]
Postprocess = Callable[[NDArray[Any], Geometry, "OutputTransaction"], None]


@dataclass(frozen=True)
class DerivedFile:
    """A file that is derived from the final slabs of another result.

    Attributes:
        path: the file.
        derive: computes a slab of this file from a slab of the result.
        dtype: NumPy name of the voxel type.
        labels, companions, options: as in `ResultSpec`.
    """

    path: Path
    derive: Derive
    dtype: str = "uint8"
    labels: tuple[Label, ...] = ()
    companions: tuple[Companion, ...] = ()
    options: Mapping[str, Any] = field(default_factory=frozen)


@dataclass(frozen=True)
class ResultSpec:
    """A result of a scan, and the files that it is written to.

    Attributes:
        path: the file, which appears when it is complete. None if only derived files are written.
        decoder: computes the result from logits.
        labels: names and colours, for formats that store them.
        postprocess: changes the whole result in place before it is written; takes an array [Z, Y, X] or
            [K, Z, Y, X], which may be memory-mapped, and may open further files. None writes slabs as they come.
        companions: see each slab that is written, e.g. to count voxels.
        options: options of the format's writer.
        derived: files that are derived from the slabs of this result.
    """

    path: Path | None
    decoder: Decoder
    labels: tuple[Label, ...] = ()
    postprocess: Postprocess | None = None
    companions: tuple[Companion, ...] = ()
    options: Mapping[str, Any] = field(default_factory=frozen)
    derived: tuple[DerivedFile, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of its files, which also holds temporary ones."""
        return (self.path or self.derived[0].path).parent


class Pending(Protocol):
    """A file that is not visible under its final name yet."""

    def commit(self) -> None: ...

    def abort(self) -> None: ...


class OutputTransaction:
    """The files of one scan, committed together: all of them appear under their names, or none does.

    Args:
        geometry: geometry of all files.
        reference: the scan, for formats that refer to it.
        options_for: gives the writer options that describe the model, for each file.
    """

    def __init__(
        self, geometry: Geometry, reference: VolumeSource, options_for: Callable[[Path], Mapping[str, Any]]
    ) -> None:  # fmt: skip
        self._geometry, self._reference, self._options_for = geometry, reference, options_for
        self._pending: list[tuple[Path, Pending]] = []
        self._folders: list[Path] = []

    def open(
        self,
        path: Path,
        dtype: DTypeLike,
        *,
        channels: int | None = None,
        labels: tuple[Label, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> VolumeWriter:
        """Open a writer for a file that appears together with the others."""
        self._folders += [folder for folder in reversed(path.parents) if not folder.exists()]
        header = VolumeHeader(self._geometry, np.dtype(dtype), channels, labels, self._reference)
        writer = open_writer(path, header, {**self._options_for(path), **(options or {})})
        self._pending.append((path, writer))
        return writer

    def text(self, path: Path, text: str) -> None:
        """Add a text file that appears together with the others."""
        self.later(path, lambda file: write_text(file, text))

    def later(self, path: Path, write: Callable[[Path], None]) -> None:
        """Add a file that is written at once, under its name, when the others appear."""
        self._pending.append((path, _Later(path, write)))

    def commit(self) -> None:
        """Give all files their names. The main file is named last, so that its presence implies that of the others.

        If a file cannot be completed, the files that already have their names are removed.
        """
        named: list[Path] = []
        try:
            while self._pending:
                path, writer = self._pending[-1]
                writer.commit()
                named.append(path)
                self._pending.pop()
        except BaseException:
            for path in named:
                _remove(path)
            raise
        self._folders.clear()

    def abort(self) -> None:
        """Remove all files, unless they are committed."""
        while self._pending:
            self._pending.pop()[1].abort()
        while self._folders:
            with suppress(OSError):  # the folder may hold other files by now
                self._folders.pop().rmdir()


class ResultWriter:
    """Writes one result to its file and to the files derived from it, through a buffer where necessary."""

    def __init__(
        self,
        spec: ResultSpec,
        mapper: SourceGridMapper,
        geometry: Geometry,
        files: OutputTransaction,
    ) -> None:
        self.spec, self._mapper, self._geometry, self._files = spec, mapper, geometry, files
        self.sink: Sink
        self._buffer: NDArray[Any] | None = None

    def open(self, folder: Path, scan: OnDisk) -> None:
        """Open the files, so that an unwritable folder is reported before the network runs."""
        spec, decoder = self.spec, self.spec.decoder
        self._slabs = _SlabFanOut(spec.companions)
        if spec.path is not None:
            writer = self._files.open(
                spec.path, decoder.dtype, channels=decoder.channels, labels=spec.labels,
                options=spec.options,
            )  # fmt: skip
            self._slabs.add(writer)
        for derived in spec.derived:
            writer = self._files.open(
                derived.path, derived.dtype, labels=derived.labels, options=derived.options
            )
            self._slabs.add(writer, derived.derive, derived.companions)
        for companion in self._slabs.companions:
            companion.open(scan)
        if self._mapper.axis == 0 and self._mapper.ascending and spec.postprocess is None:
            self.sink = ToWriter(
                cast(VolumeWriter, self._slabs), self._mapper.source, self._mapper.box,
                decoder.dtype, decoder.channels, decoder.fill,
            )  # fmt: skip
            return
        front = () if decoder.channels is None else (decoder.channels,)
        self._buffer = scratch((*front, *self._mapper.source), decoder.dtype, folder)
        self.sink = ToArray(self._buffer, self._mapper.box, decoder.fill)

    def postprocess(self) -> None:
        """Post-process the buffered result."""
        if self._buffer is not None and self.spec.postprocess is not None:
            self.spec.postprocess(self._buffer, self._geometry, self._files)

    def write(self) -> None:
        """Write the buffered result, or complete the file that was written directly."""
        if isinstance(self.sink, ToWriter):
            self.sink.close()
        else:
            assert self._buffer is not None
            self._write_buffer(self._buffer)
            self._buffer = None
        for companion in self._slabs.companions:
            companion.close(self._files)

    def _write_buffer(self, array: NDArray[Any]) -> None:
        for start, stop in slabs_of(array):
            part = array[..., start:stop, :, :]
            self._slabs.write(start, np.ascontiguousarray(part))
            for plane in part if part.ndim == 4 else [part]:
                drop_pages(plane)


def slabs_of(array: NDArray[Any]) -> list[tuple[int, int]]:
    """Cut the slices of an array [.., Z, Y, X] into slabs of about `SLAB_BYTES`."""
    depth = array.shape[-3]
    step = max(1, SLAB_BYTES * depth // max(array.nbytes, 1))
    return [(start, min(start + step, depth)) for start in range(0, depth, step)]


class _SlabFanOut:
    """Passes each final slab to the file of a result, to its derived files, and to the companions of each."""

    def __init__(self, companions: Sequence[Companion]) -> None:
        self._own = tuple(companions)
        self._files: list[tuple[VolumeWriter, Derive | None, Sequence[Companion]]] = []

    @property
    def companions(self) -> list[Companion]:
        """All of them."""
        return [*self._own, *(one for _, _, companions in self._files for one in companions)]

    def add(
        self,
        writer: VolumeWriter,
        derive: Derive | None = None,
        companions: Sequence[Companion] = (),
    ) -> None:
        self._files.append((writer, derive, companions))

    def write(self, start: int, slab: NDArray[Any]) -> None:
        for writer, derive, companions in self._files:
            part = slab if derive is None else derive(slab)
            writer.write(start, part)
            for companion in companions:
                companion.add(part)
        for companion in self._own:
            companion.add(slab)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class _Later:
    def __init__(self, path: Path, write: Callable[[Path], None]) -> None:
        self._path, self._write = path, write

    def commit(self) -> None:
        self._write(self._path)

    def abort(self) -> None:
        pass
