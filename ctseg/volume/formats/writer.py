"""The writer that every format returns: it checks slabs in order, and the file appears only when complete.

Formats of plugins use it, too: a format implements a `FormatSink`, and `Writer` does the rest.
"""

from __future__ import annotations

import glob
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctseg.errors import BadInput, DiskFull, FileProblem
from ctseg.files import disk_errors, recover_folder, replace_folder
from ctseg.temporary import clear_abandoned, held
from ctseg.volume.header import VolumeHeader

NO_ROOM = 2**16
DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64",
)  # fmt: skip
"""The voxel types that most formats store."""
FREE_SOME = "Free some space, or choose another place with -o."


class FormatSink(Protocol):
    """The part of a writer that a format implements."""

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        """Take slices from `start` on; they come in order, complete and of the right type."""
        ...

    def finish(self) -> None:
        """Complete and close the file."""
        ...

    def discard(self) -> None:
        """Close the file as it is; it is then deleted."""
        ...


class Writer:
    """Writes a volume beside its final name and moves it there on `commit`; see `ctseg.specs.VolumeWriter`.

    Args:
        path: final name.
        suffix: its suffix, which the temporary file keeps because libraries choose the format by it.
        header: grid, type and channels of the volume, as the format stores it.
        open_sink: creates the format's sink on the temporary file.
        folder: for a volume that is a folder of files, which the sink creates: whether an existing non-empty folder of
            that name may be replaced. None for a file.

    Raises:
        FileProblem: the folder is missing or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        suffix: str,
        header: VolumeHeader,
        open_sink: Callable[[Path], FormatSink],
        *,
        folder: Callable[[Path], bool] | None = None,
    ) -> None:
        _check_target(path, folder)
        self.path = path
        self._depth, *self._plane = header.geometry.shape_zyx
        self._dtype = header.dtype
        self._channels = header.channels
        self._next = 0
        self._sink: FormatSink | None = None
        stem = path.name[: len(path.name) - len(suffix)]
        self._temporary = path.with_name(
            f".{stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{suffix}"
        )
        pattern = f".{glob.escape(stem)}.*-{'[0-9a-f]' * 8}.tmp{glob.escape(suffix)}"
        if folder is not None:
            recover_folder(path, pattern)
        clear_abandoned(
            path.parent.glob(pattern)
        )  # left by killed processes that wrote the same volume
        self._held = ExitStack()
        with self._writing():
            self._sink = open_sink(self._temporary)
            self._held.enter_context(held(self._temporary))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Clean up after any failure, and raise a `FileProblem` for errors of the disk."""
        try:
            with disk_errors(self.path):
                yield
        except DiskFull as error:
            self.abort()
            raise self._with_rest(error) from error.__cause__
        except (OSError, RuntimeError) as error:
            full = shutil.disk_usage(self.path.parent).free < NO_ROOM
            self.abort()
            if full:  # some libraries do not report why they failed
                disk_full = DiskFull(
                    f"The disk is full: {self.path} could not be written.", hint=FREE_SOME
                )
                raise self._with_rest(disk_full) from error
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise FileProblem(
                f"{self.path} cannot be written: {lines[-1]}.",
                hint=f"Check the space left and the permissions: df -h {self.path.parent}",
            ) from error
        except BaseException:
            self.abort()
            raise

    def _with_rest(self, error: DiskFull) -> DiskFull:
        slice_bytes = (self._channels or 1) * math.prod(self._plane) * self._dtype.itemsize
        return with_rest(error, self._depth - self._next, self._depth, slice_bytes)

    def write(self, start: int, slab: NDArray[Any]) -> None:
        """Write [Z, Y, X], or [C, Z, Y, X] if the writer has channels, from slice `start` on.

        Raises:
            BadInput: a slab out of order, of another shape, or of a type that would lose values.
            FileProblem: the disk reports an error.
        """
        slab_czyx = slab if self._channels is not None else slab[None]
        expected = (self._channels or 1, slab_czyx.shape[1], *self._plane)
        with self._writing():
            if self._sink is None:
                raise BadInput(
                    f"{self.path} was committed or aborted; nothing more can be written."
                )
            if slab_czyx.shape != expected:
                raise BadInput(
                    f"A slab of {self.path} has the shape {slab_czyx.shape}, not {expected}."
                )
            if start != self._next or start + slab_czyx.shape[1] > self._depth:
                raise BadInput(
                    f"A slab of {self.path} starts at slice {start} with {slab_czyx.shape[1]} slices "
                    f"where slice {self._next} of {self._depth} is expected."
                )
            if not np.can_cast(slab.dtype, self._dtype, casting="same_kind"):
                raise BadInput(
                    f"A slab of {self.path} is {slab.dtype}, which does not fit {self._dtype}."
                )
            self._sink.put(start, np.asarray(slab_czyx, self._dtype))
            self._next += slab_czyx.shape[1]

    def commit(self) -> None:
        """Complete the file and rename it to its final name.

        Raises:
            BadInput: slices are missing.
            FileProblem: the disk reports an error.
        """
        with self._writing():
            if self._sink is None:
                raise BadInput(f"{self.path} was committed or aborted already.")
            if self._next != self._depth:
                raise BadInput(f"{self.path} got {self._next} of its {self._depth} slices.")
            self._sink.finish()
            inside = self._temporary.iterdir() if self._temporary.is_dir() else [self._temporary]
            for file in inside:
                if file.is_file():
                    _flush(file)
            self._rename()
            self._sink = None
            self._held.close()

    def _rename(self) -> None:
        """Rename the volume to its final name."""
        if self._temporary.is_dir():
            replace_folder(self._temporary, self.path)
        else:
            self._temporary.replace(self.path)

    def abort(self) -> None:
        """Delete the temporary file; does nothing after `commit`."""
        sink, self._sink = self._sink, None
        if sink is not None:
            # The file is deleted in any case, and only the first error is reported.
            with suppress(OSError, RuntimeError, ValueError):
                sink.discard()
        self._held.close()
        if self._temporary.is_dir():
            shutil.rmtree(self._temporary)
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._sink is not None:
            self.abort()


def with_rest(error: DiskFull, missing: int, depth: int, slice_bytes: int) -> DiskFull:
    """The same error with the amount of data that was still to be written.

    Args:
        missing: missing slices of `depth`.
        slice_bytes: size of one slice, uncompressed.
    """
    amount = (
        f"{missing} of {depth} slices are missing, up to {missing * slice_bytes / 2**20:.1f} MiB"
    )
    if not missing:  # all slices were accepted, but some still waited in memory
        amount = f"whole it takes up to {depth * slice_bytes / 2**20:.1f} MiB"
    return DiskFull(f"{error.message[:-1]}; {amount}.", hint=error.hint, needed=error.needed)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_target(path: Path, folder: Callable[[Path], bool] | None) -> None:
    in_the_way = folder is not None and path.exists() and (not path.is_dir() or any(path.iterdir()))
    if folder is not None and in_the_way and not folder(path):
        raise FileProblem(
            f"{path} is there already; its files are not replaced.",
            hint="Choose another folder, or remove it first.",
        )
    if path.is_dir() and folder is None:
        raise FileProblem(f"{path} is a folder; a file of that name cannot be written.")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise FileProblem(
            f"{path} cannot be written: no permission to write in {path.parent}.",
            hint="Choose another place with -o, or change the permissions.",
        )


def check_dtype(dtype: DTypeLike, known: tuple[str, ...], *, format_name: str) -> np.dtype[Any]:
    """The type as which a format stores a given type: bool becomes uint8, float16 float32 if necessary.

    Raises:
        BadInput: the format does not support such a type.
    """
    requested = np.dtype(dtype).newbyteorder("=")
    for name, stand_in in (
        (requested.name, requested.name),
        ("bool", "uint8"),
        ("float16", "float32"),
    ):
        if requested.name == name and stand_in in known:
            return np.dtype(stand_in)
    raise BadInput(
        f"{format_name} cannot hold {requested} voxels.", hint=f"It holds: {', '.join(known)}"
    )
