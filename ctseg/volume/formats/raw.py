"""Blocks of voxels in files, compressed or not: NIfTI, NRRD and MetaImage differ only in their headers.

Files are opened anew for every read, so processes of a loader share nothing.
"""

from __future__ import annotations

import bz2
import io
import math
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ctseg.specs import Zyx

Compression = Literal["", "gzip", "bzip2", "zlib"]
BLOCK = 1 << 22
BEHIND = 1 << 26
"""Most bytes after the voxels of a compressed file that are unpacked to reach its checksum."""
_NARROW = 1 << 16
"""Distance of a box's rows in bytes above which they are read without read-ahead."""
_DEFLATED = 1032
"""Largest compression ratio of deflate: 258 bytes for two bits (RFC 1951; zlib's technical notes)."""
_BZIP2 = 1 << 22
"""Largest compression ratio of bzip2, with a margin: a block of 46 MB of one value takes some 40 bytes."""


class UnpackTarget(Protocol):
    """A file that receives unpacked voxels.

    Attributes:
        path: path under which it is read, until it is closed.
    """

    path: Path

    def reserve(self, size: int) -> None:
        """Make sure that there is space for that many bytes."""
        ...

    def write(self, data: bytes | memoryview) -> None: ...

    def close(self) -> None:
        """Release and delete the file."""
        ...


@dataclass(frozen=True)
class Raw:
    """One block of voxels in a file.

    Attributes:
        path: the file.
        dtype: as stored, byte order included.
        shape_zyx: number of voxels.
        channels: numbers per voxel.
        interleaved: whether the channels of a voxel lie side by side; otherwise they are the slowest axis.
        start: first byte of the block in the file.
        compression: compression of everything from `start` on.
        skip: bytes to skip after decompression.
    """

    path: Path
    dtype: np.dtype[Any]
    shape_zyx: Zyx
    channels: int = 1
    interleaved: bool = False
    start: int = 0
    compression: Compression = ""
    skip: int = 0

    @property
    def stored_shape(self) -> tuple[int, ...]:
        if self.interleaved:
            return (*self.shape_zyx, self.channels)
        return (self.channels, *self.shape_zyx)

    @property
    def nbytes(self) -> int:
        return math.prod(self.stored_shape) * self.dtype.itemsize

    def check_size(self) -> None:
        """Detect a truncated file, or a header that declares more voxels than a file of this size can hold.

        Truncation within the last blocks of a compressed file is detected only when it is read.

        Raises:
            EOFError: bytes are missing.
        """
        available = self.path.stat().st_size - self.start
        if not self.compression and available - self.skip < self.nbytes:
            raise EOFError(
                f"it has {max(available - self.skip, 0)} of {self.nbytes} bytes of voxels"
            )
        most = available * (_BZIP2 if self.compression == "bzip2" else _DEFLATED)
        if self.compression and most < self.nbytes + self.skip:
            raise EOFError(f"it is too small for {self.nbytes} bytes of voxels")

    @property
    def surplus(self) -> int:
        """Number of slices in an uncompressed file beyond those that its header declares."""
        if self.compression:
            return 0
        plane = self.nbytes // self.shape_zyx[0]
        return max(0, self.path.stat().st_size - self.start - self.skip - self.nbytes) // plane

    def slices(self, start: int, stop: int) -> NDArray[Any]:
        """Slices as [C, Z, Y, X]."""
        _, y, x = self.shape_zyx
        if self.compression:
            return self._unpacked(start, stop)
        return self.box((start, 0, 0), (stop, y, x))

    def box(self, start_zyx: Zyx, stop_zyx: Zyx) -> NDArray[Any]:
        """Voxels as [C, Z, Y, X]; from a compressed file whole slices are unpacked and cut."""
        rows = tuple(slice(a, b) for a, b in zip(start_zyx, stop_zyx, strict=True))
        if self.compression:
            return self._unpacked(start_zyx[0], stop_zyx[0])[:, :, rows[1], rows[2]]
        self.check_size()  # mapping a file that has shrunk would end the process
        first = self.start + self.skip
        with self.path.open("rb") as file:
            page = first - first % mmap.ALLOCATIONGRANULARITY
            length = first - page + self.nbytes
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=page) as mapped:
                _, _, x = self.shape_zyx
                plane = self.shape_zyx[1] * x * self.dtype.itemsize
                if stop_zyx[2] - start_zyx[2] < x and plane > _NARROW:
                    _advise_random(mapped)
                block_voxels = np.frombuffer(
                    mapped, self.dtype, self.nbytes // self.dtype.itemsize, first - page
                )
                block_voxels = block_voxels.reshape(self.stored_shape)
                part = (
                    block_voxels[rows] if self.interleaved else block_voxels[(slice(None), *rows)]
                )
                out = np.array(np.moveaxis(part, -1, 0) if self.interleaved else part, order="C")
                del block_voxels, part  # the map cannot be closed while arrays refer to it
                return out

    def _unpacked(self, start: int, stop: int) -> NDArray[Any]:
        """Slices of a compressed file; if all slices are read, the end and its checksum are read, too."""
        z, y, x = self.shape_zyx
        each = y * x * self.dtype.itemsize
        blocks = 1 if self.interleaved else self.channels
        plane = each * self.channels if self.interleaved else each
        shape = (stop - start, y, x, self.channels) if self.interleaved else (stop - start, y, x)
        out = np.empty((blocks, *shape), self.dtype)
        with self._stream() as file:
            pass_over(file, self.skip)
            for block in range(blocks):
                pass_over(file, start * plane)
                fill(file, out[block])
                if block + 1 < blocks:
                    pass_over(file, (z - stop) * plane)
            if stop - start == z:
                read_end(file)
        return np.moveaxis(out[0], -1, 0) if self.interleaved else out

    def unpack(self, target: UnpackTarget) -> Raw:
        """Write the voxels uncompressed to a file, block by block, and return their description there."""
        target.reserve(self.nbytes)
        with self._stream() as file:
            pass_over(file, self.skip)
            remaining = self.nbytes
            while remaining:
                block = file.read(min(BLOCK, remaining))
                if not block:
                    raise EOFError(f"{remaining} bytes of its voxels are missing")
                target.write(block)
                remaining -= len(block)
            read_end(file)
        return replace(self, path=target.path, start=0, skip=0, compression="")

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes]]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            with unpacked(file, self.compression) as stream:
                yield stream


@contextmanager
def unpacked(file: IO[bytes], compression: Compression) -> Iterator[IO[bytes]]:
    """An open file as a decompressed stream, from its current position."""
    if compression == "bzip2":
        with bz2.BZ2File(file) as stream:
            yield cast(IO[bytes], stream)
    elif compression:
        with io.BufferedReader(_Inflated(file), BLOCK) as inflated:
            yield cast(IO[bytes], inflated)
    else:
        yield file


class _Inflated(io.RawIOBase):
    """A zlib stream, or a gzip stream with its members, read as a file; MetaImage allows both.

    Checksums are verified. Bytes after the last complete member are ignored, as in gzip and
    SimpleITK.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=47)  # 32 + 15: detects zlib or gzip by the header
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while not self._inflate.eof or self._next_member():
            data = self._inflate.unconsumed_tail or self._rest or self._file.read(1 << 20)
            self._rest = b""
            if not data:
                raise EOFError("its compressed voxels end too early")
            out = self._inflate.decompress(data, len(view))
            if out:
                view[: len(out)] = out
                return len(out)
        return 0

    def _next_member(self) -> bool:
        """Whether another gzip member follows the one that has ended."""
        unused = self._inflate.unused_data
        if len(unused) < 2:
            unused += self._file.read(2 - len(unused))
        if not unused.startswith(b"\x1f\x8b"):
            return False
        self._inflate, self._rest = zlib.decompressobj(wbits=31), unused
        return True


def read_end(file: IO[bytes]) -> None:
    """Read the bytes after a stream's voxels, up to a limit, so that its checksum is verified."""
    remaining = BEHIND
    while remaining > 0 and (block := file.read(min(BLOCK, remaining))):
        remaining -= len(block)


def _advise_random(mapped: mmap.mmap) -> None:
    """Turn off read-ahead: for the many short rows of a box it would read most of the file."""
    if hasattr(mmap, "MADV_RANDOM") and os.name == "posix":
        mapped.madvise(mmap.MADV_RANDOM)


def pass_over(file: IO[bytes], count: int) -> None:
    while count:
        block = file.read(min(BLOCK, count))
        if not block:
            raise EOFError(f"{count} bytes of its voxels are missing")
        count -= len(block)


def fill(file: Any, part: NDArray[Any]) -> None:
    """Read a contiguous array from a stream.

    Raises:
        EOFError: the stream ends before the array is full.
    """
    view = part.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + BLOCK])
        if not count:
            raise EOFError(f"{len(view) - done} bytes of its voxels are missing")
        done += count


class RawSink:
    """Streams voxels after a header, compressed or not; see `ctseg.volume.formats.writer.FormatSink`.

    Args:
        temporary: the file to write.
        header: all bytes before the voxels.
        compression: compression of the voxels.
        size_at: offset of the compressed size in the header, 20 digits or spaces; None if it has no such field.
    """

    def __init__(
        self,
        temporary: Path,
        header: bytes,
        *,
        compression: Literal["", "gzip", "zlib"] = "",
        size_at: int | None = None,
    ) -> None:
        self._file = temporary.open("wb")
        self._file.write(header)
        self._first = len(header)
        self._size_at = size_at
        # no name and no time, so that equal volumes give equal bytes
        wbits = {"gzip": 31, "zlib": 15}
        self._deflate = zlib.compressobj(4, wbits=wbits[compression]) if compression else None

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        """Write slices with the channels of a voxel side by side."""
        little = slab_czyx.astype(slab_czyx.dtype.newbyteorder("<"), copy=False)
        block = np.ascontiguousarray(np.moveaxis(little, 0, -1)).data.cast("B")
        self._file.write(block if self._deflate is None else self._deflate.compress(block))

    def finish(self) -> None:
        if self._deflate is not None:
            self._file.write(self._deflate.flush())
            size = self._file.tell() - self._first
            if self._size_at is not None:
                self._file.seek(self._size_at)
                self._file.write(b"%-20d" % size)
        self._file.close()

    def discard(self) -> None:
        self._file.close()
