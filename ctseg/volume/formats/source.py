"""The opened scan that every format returns, and the translation of errors while reading."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctseg import plugins
from ctseg.errors import BadInput, CtsegError, FileProblem, OutOfMemory, PluginError, nearest
from ctseg.specs import FormatSpec, VolumeSource, Zyx, frozen
from ctseg.volume.formats.calibration import known_spacing
from ctseg.volume.formats.raw import UnpackTarget
from ctseg.volume.formats.units import read_spacing
from ctseg.volume.geometry import Geometry

LoadBox = Callable[[Zyx, Zyx], NDArray[Any]]

COMMON_OPTIONS: Mapping[str, str] = frozen(
    {"spacing": 'x, y and z, or one number for all, in mm or with a unit: "0.7 0.7 2.5", "5um"'}
)
"""Options that scans of every format have; the spacing replaces that of the file."""
AGAIN = "Copy or download the file again, and check that the disk it came from was not full."
MOST_VOXELS = 1 << 44
"""Most voxels of a scan; a header with more is damaged: as a cube it would have 26,000 voxels along an edge."""
_DAMAGE = (
    OSError, RuntimeError, ValueError, KeyError, OverflowError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class ScanHeader:
    """What is known of an opened scan before its voxels are read.

    Attributes:
        geometry: its grid.
        dtype: type of the voxels.
        channels: number of channels.
        by_region: whether slices can be read without the rest of the file.
        metadata: further information from the file.
    """

    geometry: Geometry
    dtype: DTypeLike
    channels: int = 1
    by_region: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Source:
    """A scan on disk; see `ctseg.specs.VolumeSource`.

    Args:
        path: the file or folder.
        header: grid, type and channels of the voxels.
        load: `load(start, stop)` reads these slices as [C, Z, Y, X].
        load_box: `load_box(start_zyx, stop_zyx)` reads these voxels as [C, Z, Y, X]; without it boxes are cut from
            whole slices.
        unpack: `unpack(target)` writes the voxels of a compressed file to another one, block by block, and returns
            a source that reads them there; closing that source deletes the file.
        close: releases the file.

    Raises:
        FileProblem: the header declares more voxels than any scan has.
    """

    def __init__(
        self,
        path: Path,
        header: ScanHeader,
        load: Callable[[int, int], NDArray[Any]],
        *,
        load_box: LoadBox | None = None,
        unpack: Callable[[UnpackTarget], Source] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        geometry, channels = header.geometry, header.channels
        voxels = math.prod(geometry.shape_zyx) * channels
        if voxels > MOST_VOXELS:
            raise FileProblem(
                f"{path} declares {geometry.shape_zyx} voxels in {channels} channels, more than any scan has.",
                hint=AGAIN,
            )
        self.path = path
        self.geometry = geometry
        self.channels = channels
        self.dtype: np.dtype[Any] = np.dtype(header.dtype).newbyteorder("=")
        self.by_region = header.by_region
        self.metadata: Mapping[str, Any] = dict(header.metadata)
        self._load = load
        self._load_box = load_box
        self.unpack = unpack
        self._close = close
        self.opened_with: tuple[str, Mapping[str, Any]] | None = None
        """Name of the format and options, with which an unpickled copy in another process reopens the file."""

    def read(self, slices: tuple[int, int] | None = None) -> NDArray[Any]:
        """The volume, or its slices from start to stop, as [C, Z, Y, X]; the array belongs to the caller.

        Raises:
            FileProblem: the file is truncated or damaged.
            BadInput: slices that the volume does not have.
        """
        start, stop = check_slices(slices, self.geometry.shape_zyx[0], self.path)
        _, y, x = self.geometry.shape_zyx
        with reading(self.path):
            return self._own(self._load(start, stop), (stop - start, y, x))

    def read_box(self, start_zyx: Zyx, stop_zyx: Zyx) -> NDArray[Any]:
        """The voxels from start to before stop, as [C, Z, Y, X]; the array belongs to the caller.

        Raises:
            FileProblem: the file is truncated or damaged.
            BadInput: an empty box, or one that leaves the volume.
        """
        start, stop = check_box(start_zyx, stop_zyx, self.geometry.shape_zyx, self.path)
        shape = tuple(b - a for a, b in zip(start, stop, strict=True))
        with reading(self.path):
            if self._load_box is not None:
                return self._own(self._load_box(start, stop), shape)
            slab = self._load(start[0], stop[0])
            return self._own(slab[:, :, start[1] : stop[1], start[2] : stop[2]], shape)

    def _own(self, array: NDArray[Any], shape_zyx: tuple[int, ...]) -> NDArray[Any]:
        """A contiguous array of the expected shape that shares no memory with the file."""
        shape = (self.channels, *shape_zyx)
        if array.shape != shape:
            raise FileProblem(
                f"{self.path} gave voxels of shape {array.shape} where its header says {shape}.",
                hint=AGAIN,
            )
        if isinstance(array, np.memmap) or not array.flags.writeable:
            # read now, while errors of the disk can be reported with the file's name
            return np.array(array, self.dtype, order="C", subok=False)
        return np.ascontiguousarray(array, dtype=self.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.opened_with is None:
            raise TypeError(f"{self.path} was opened by hand and cannot be sent to another process")
        name, options = self.opened_with
        return reopen, (self.path, name, dict(options))

    def close(self) -> None:
        if self._close is not None:
            self._close()
            self._close = None

    def _repr_html_(self) -> str:
        """What notebooks show: facts, and the slice in the middle."""
        from ctseg.volume.preview.html import source_html

        return source_html(self)

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def reopen(path: Path, format: str, options: Mapping[str, Any]) -> VolumeSource:  # noqa: A002
    """Reopen a pickled source, in a worker."""
    return open_as(plugins.format_named(format), path, options)


def options_of(spec: FormatSpec) -> dict[str, str]:
    """The options with which a format is opened: its own, and those that every format has."""
    return {**COMMON_OPTIONS, **spec.options}


def open_as(spec: FormatSpec, path: Path, options: Mapping[str, Any]) -> VolumeSource:
    """Open a scan in a format so that the source can be pickled for another process.

    Raises:
        PluginError: what a plugin's format opens is no scan.
        BadInput: an option with an impossible value.
    """
    source = spec.open(path, **{k: v for k, v in options.items() if k in spec.options})
    if not all(hasattr(source, name) for name in ("geometry", "read", "read_box", "close")):
        owner = plugins.registry().get("format", spec.name).plugin.owner
        raise PluginError(
            f"The format {spec.name} of {owner} opened {path} as {type(source).__name__}, which is no scan."
        )
    if "spacing" in options and "spacing" not in spec.options:
        try:
            spacing, unit = read_spacing(str(options["spacing"]))
        except BadInput:
            source.close()
            raise
        source.geometry = replace(source.geometry, spacing_xyz=spacing, unit=unit)
        source.metadata = known_spacing(source.metadata)
    if isinstance(source, Source):
        source.opened_with = (spec.name, frozen(options))
    return source


def check_slices(slices: tuple[int, int] | None, depth: int, path: Path) -> tuple[int, int]:
    """Start and stop within a volume of `depth` slices.

    Raises:
        BadInput: an empty range, or one that leaves the volume.
    """
    start, stop = slices or (0, depth)
    if not 0 <= start < stop <= depth:
        raise BadInput(
            f"{path} has {depth} slices; {start}:{stop} (the second one excluded) is no part of them."
        )
    return start, stop


def check_box(start_zyx: Zyx, stop_zyx: Zyx, shape_zyx: Zyx, path: Path) -> tuple[Zyx, Zyx]:
    """First voxel and the one past the last, as plain integers, checked against the volume.

    Raises:
        BadInput: an empty box, or one that leaves the volume.
    """
    az, ay, ax = (int(v) for v in start_zyx)
    bz, by, bx = (int(v) for v in stop_zyx)
    ends = zip((az, ay, ax), (bz, by, bx), shape_zyx, strict=True)
    if not all(0 <= a < b <= n for a, b, n in ends):
        raise BadInput(
            f"{path} has {shape_zyx} voxels (z, y, x); {(az, ay, ax)} to {(bz, by, bx)} is no part of them."
        )
    return (az, ay, ax), (bz, by, bx)


def check_file(path: Path) -> None:
    """Refuse a path that cannot be a volume file, before a library raises a vaguer error.

    Raises:
        FileProblem: missing, a directory, empty, or not readable.
    """
    try:
        is_dir, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise FileProblem(f"{path} cannot be accessed: {error.strerror or error}.") from error
    if is_dir:
        raise FileProblem(
            f"{path} is a folder where a file is expected.", hint="Name the file inside it."
        )
    if not exists:
        raise FileProblem(f"{path} does not exist.", hint=_near(path))
    if not path.is_file():  # a pipe or a device has no end, or blocks
        raise FileProblem(f"{path} is not a regular file.", hint="Copy it into a file first.")
    if not os.access(path, os.R_OK):
        raise FileProblem(
            f"{path} may not be read: permission denied.", hint=f"Allow it: chmod u+r {path}"
        )
    if path.stat().st_size == 0:
        raise FileProblem(f"{path} is empty (0 bytes).", hint=AGAIN)


def what_is(path: Path) -> Literal["file", "folder", ""]:
    """What a path is; empty if it cannot be accessed or is no regular file, for which `check_file` raises errors."""
    try:
        return "folder" if path.is_dir() else "file" if path.is_file() else ""
    except OSError:  # a folder without access, or a name that is too long
        return ""


def _near(path: Path) -> str:
    """A hint for a missing path: the nearest name beside it, or the first folder that does not exist."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder != path.parent:
        missing = path.relative_to(folder).parts[0]
        return f"The folder {folder / missing} does not exist either; check the path."
    try:
        match = nearest(path.name, [entry.name for entry in folder.iterdir()])
    except OSError:
        match = None
    return f"Did you mean {folder / match}?" if match else f"Look what there is: ls {folder}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors that libraries raise for bad files into a `FileProblem`.

    Args:
        path: the file being read, for the message.
    """
    try:
        yield
    except CtsegError:
        raise
    except MemoryError as error:
        raise OutOfMemory(
            f"{path} does not fit in the memory: {_last_line(error)}.",
            hint="If its size is not what its header says, copy or download it again; else convert it to a format "
            "that is read by region: ctseg data convert",
        ) from error
    except EOFError as error:
        raise FileProblem(f"{path} is truncated: {_last_line(error)}.", hint=AGAIN) from error
    except _DAMAGE as error:
        raise FileProblem(
            f"{path} cannot be read; it is truncated, damaged or not what its name says: "
            f"{_last_line(error)}.",
            hint=AGAIN,
        ) from error


def _last_line(error: BaseException) -> str:
    """The informative part of a library's message: its last line, without source files and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    for mark in ("ERROR: ", "Reason: "):
        text = text.rpartition(mark)[2]
    return text.rstrip(".") or type(error).__name__
