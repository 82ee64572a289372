"""The ways of results to their files: straight into them, or by an array that is changed before it is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctseg.engine.inference.decoders import Decoder
from ctseg.engine.inference.sinks import Sink, ToArray, ToWriter
from ctseg.engine.inference.source_grid import SourceGridMapper
from ctseg.files import write_text
from ctseg.specs import Label, VolumeSource, VolumeWriter, frozen
from ctseg.volume.geometry import Geometry
from ctseg.volume.io import open_writer
from ctseg.volume.memory_map import drop_pages
from ctseg.volume.scratch import scratch

SLAB_BYTES = 2**25
OnSlab = Callable[[NDArray[Any]], None]
Finish = Callable[[NDArray[Any], Geometry, "OutputTransaction"], None]


@dataclass(frozen=True)
class DerivedFile:
    """A file made of another result, slab by slab, when nothing changes that any more.

    Attributes:
        path: the file.
        make: from a slab of the result to one of this file.
        dtype: of its voxels, as NumPy writes it.
        labels, on_slab, options: as those of `ResultSpec`.
    """

    path: Path
    make: Callable[[NDArray[Any]], NDArray[Any]]
    dtype: str = "uint8"
    labels: tuple[Label, ...] = ()
    on_slab: OnSlab | None = None
    options: Mapping[str, Any] = field(default_factory=frozen)


@dataclass(frozen=True)
class ResultSpec:
    """A result and the file that it goes to.

    Attributes:
        path: the file; it appears when it is whole. None where only others are made of the result.
        product: what is made.
        labels: names and colours, for formats that hold them.
        finish: changes the whole result before it is written (post-processing), an array [Z, Y, X] or
            [K, Z, Y, X] that may lie on disk; it may open further files. None for nothing.
        on_slab: called with each slab as it is written, e.g. to count voxels.
        options: of the format's writer.
        made: files made of the slabs of this result.
    """

    path: Path | None
    product: Decoder
    labels: tuple[Label, ...] = ()
    finish: Finish | None = None
    on_slab: OnSlab | None = None
    options: Mapping[str, Any] = field(default_factory=frozen)
    made: tuple[DerivedFile, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its files lie, and temporary ones meanwhile."""
        return (self.path or self.made[0].path).parent


class Pending(Protocol):
    """A file that has no name yet."""

    def commit(self) -> None: ...

    def abort(self) -> None: ...


class OutputTransaction:
    """The files of one scan: all of them get their names, or none does.

    Args:
        geometry: of them all.
        reference: the scan, for formats that refer to it.
        options_for: what every writer is told about the model.
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
        """A writer of a file that appears together with the others."""
        self._folders += [folder for folder in reversed(path.parents) if not folder.exists()]
        writer = open_writer(
            path, self._geometry, np.dtype(dtype), channels=channels, labels=labels,
            reference=self._reference, options={**self._options_for(path), **(options or {})},
        )  # fmt: skip
        self._pending.append((path, writer))
        return writer

    def text(self, path: Path, text: str) -> None:
        """A text file that appears together with the others."""
        self._pending.append((path, _Text(path, text)))

    def commit(self) -> None:
        """Give the files their names. The first one comes last: where it is, all are.

        If one cannot be completed, those that have their names by then are removed again.
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
        """Leave nothing behind, unless all was committed."""
        while self._pending:
            self._pending.pop()[1].abort()
        while self._folders:
            with suppress(OSError):  # something else may lie in it by now
                self._folders.pop().rmdir()


class ResultWriter:
    """The way of one result to its file, and to those that are made of it."""

    def __init__(
        self,
        wanted: ResultSpec,
        back: SourceGridMapper,
        geometry: Geometry,
        files: OutputTransaction,
    ) -> None:
        self.wanted, self._back, self._geometry, self._files = wanted, back, geometry, files
        self.sink: Sink
        self._waiting: NDArray[Any] | None = None

    def open(self, folder: Path) -> None:
        """Open the files, so that a place that cannot be written is known before the network runs."""
        one, product = self.wanted, self.wanted.product
        self._fan = _Fan()
        if one.path is not None:
            writer = self._files.open(
                one.path, product.dtype, channels=product.channels, labels=one.labels,
                options=one.options,
            )  # fmt: skip
            self._fan.add(writer, None, None)
        for made in one.made:
            writer = self._files.open(
                made.path, made.dtype, labels=made.labels, options=made.options
            )
            self._fan.add(writer, made.make, made.on_slab)
        self._fan.on_slab = one.on_slab
        if self._back.axis == 0 and self._back.ascending and one.finish is None:
            self.sink = ToWriter(
                cast(VolumeWriter, self._fan), self._back.source, self._back.box,
                product.dtype, product.channels, product.fill,
            )  # fmt: skip
            return
        front = () if product.channels is None else (product.channels,)
        self._waiting = scratch((*front, *self._back.source), product.dtype, folder)
        self.sink = ToArray(self._waiting, self._back.box, product.fill)

    def change(self) -> None:
        """Change what waited."""
        if self._waiting is not None and self.wanted.finish is not None:
            self.wanted.finish(self._waiting, self._geometry, self._files)

    def write(self) -> None:
        """Write what waited."""
        if isinstance(self.sink, ToWriter):
            self.sink.close()
            return
        array = self._waiting
        assert array is not None
        for start, stop in slabs_of(array):
            part = array[..., start:stop, :, :]
            self._fan.write(start, np.ascontiguousarray(part))
            for plane in part if part.ndim == 4 else [part]:
                drop_pages(plane)
        self._waiting = None


def slabs_of(array: NDArray[Any]) -> list[tuple[int, int]]:
    """The slices of an array [.., Z, Y, X] in slabs that are held at a time."""
    depth = array.shape[-3]
    step = max(1, SLAB_BYTES * depth // max(array.nbytes, 1))
    return [(start, min(start + step, depth)) for start in range(0, depth, step)]


class _Fan:
    """Hands finished slabs to the file of a result, to those made of it, and to whoever counts."""

    def __init__(self) -> None:
        self._files: list[
            tuple[VolumeWriter, Callable[[NDArray[Any]], NDArray[Any]] | None, OnSlab | None]
        ] = []
        self.on_slab: OnSlab | None = None

    def add(
        self,
        writer: VolumeWriter,
        make: Callable[[NDArray[Any]], NDArray[Any]] | None,
        on_slab: OnSlab | None,
    ) -> None:
        self._files.append((writer, make, on_slab))

    def write(self, start: int, slab: NDArray[Any]) -> None:
        for writer, make, on_slab in self._files:
            part = slab if make is None else make(slab)
            writer.write(start, part)
            if on_slab is not None:
                on_slab(part)
        if self.on_slab is not None:
            self.on_slab(slab)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class _Text:
    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text

    def commit(self) -> None:
        write_text(self._path, self._text)

    def abort(self) -> None:
        pass
