"""Voxels as they lie in a file, compressed or not: NIfTI, NRRD and MetaImage differ in their headers only.

Files are opened anew for every read, so nothing is shared between the processes of a loader.
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
"""Bytes behind the voxels of a compressed file that are unpacked for the sake of its checksum, and no more."""
_NARROW = 1 << 16
"""Rows of a box that lie further apart than this in bytes are read without read-ahead."""
_DEFLATED = 1032
"""Bytes that one of a deflated stream can stand for at most: 258 for two bits (RFC 1951; zlib's technical notes)."""
_BZIP2 = 1 << 22
"""The same for bzip2, generously: a block of 46 MB of one value takes some 40 bytes."""


class UnpackTarget(Protocol):
    """A file that takes unpacked voxels.

    Attributes:
        path: under which it is read, until it is closed.
    """

    path: Path

    def reserve(self, size: int) -> None:
        """Make sure that so many bytes fit."""
        ...

    def write(self, data: bytes | memoryview) -> None: ...

    def close(self) -> None:
        """Release and delete it."""
        ...


@dataclass(frozen=True)
class Raw:
    """One block of voxels in a file.

    Attributes:
        path: the file.
        dtype: as stored, byte order included.
        shape_zyx: voxels.
        channels: numbers a voxel.
        interleaved: whether the channels of a voxel lie side by side; otherwise they are the slowest axis.
        start: first byte of the block in the file.
        compression: of everything from `start` on.
        skip: bytes to pass over once uncompressed.
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
        """Find a file cut short, or a header that promises more than a file of its size can hold.

        Whether a compressed file is whole is known only once it is read.

        Raises:
            EOFError: bytes are missing.
        """
        there = self.path.stat().st_size - self.start
        if not self.compression and there - self.skip < self.nbytes:
            raise EOFError(f"it has {max(there - self.skip, 0)} of {self.nbytes} bytes of voxels")
        most = there * (_BZIP2 if self.compression == "bzip2" else _DEFLATED)
        if self.compression and most < self.nbytes + self.skip:
            raise EOFError(f"it is too small for {self.nbytes} bytes of voxels")

    @property
    def surplus(self) -> int:
        """Slices that an uncompressed file holds beyond those that its header promises."""
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
        """Voxels as [C, Z, Y, X]; of a compressed file the slices are unpacked and cut."""
        rows = tuple(slice(a, b) for a, b in zip(start_zyx, stop_zyx, strict=True))
        if self.compression:
            return self._unpacked(start_zyx[0], stop_zyx[0])[:, :, rows[1], rows[2]]
        self.check_size()  # a mapped file that shrinks would end the process
        first = self.start + self.skip
        with self.path.open("rb") as file:
            page = first - first % mmap.ALLOCATIONGRANULARITY
            length = first - page + self.nbytes
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=page) as mapped:
                _, _, x = self.shape_zyx
                plane = self.shape_zyx[1] * x * self.dtype.itemsize
                if stop_zyx[2] - start_zyx[2] < x and plane > _NARROW:
                    _advise_random(mapped)
                whole = np.frombuffer(
                    mapped, self.dtype, self.nbytes // self.dtype.itemsize, first - page
                )
                whole = whole.reshape(self.stored_shape)
                part = whole[rows] if self.interleaved else whole[(slice(None), *rows)]
                out = np.array(np.moveaxis(part, -1, 0) if self.interleaved else part, order="C")
                del whole, part  # the map cannot be closed while arrays look into it
                return out

    def _unpacked(self, start: int, stop: int) -> NDArray[Any]:
        """Slices of a compressed file; its end is read, and so its checksum, when all are asked for."""
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
        """Write the voxels uncompressed to a file, a block at a time, and describe them there."""
        target.reserve(self.nbytes)
        with self._stream() as file:
            pass_over(file, self.skip)
            left = self.nbytes
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise EOFError(f"{left} bytes of its voxels are missing")
                target.write(block)
                left -= len(block)
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
    """An open file as a stream of what is compressed in it, from where it stands."""
    if compression == "bzip2":
        with bz2.BZ2File(file) as stream:
            yield cast(IO[bytes], stream)
    elif compression:
        with io.BufferedReader(_Inflated(file), BLOCK) as inflated:
            yield cast(IO[bytes], inflated)
    else:
        yield file


class _Inflated(io.RawIOBase):
    """A zlib stream, or one of gzip with its members, read as a file; MetaImage allows both.

    Checksums are checked. Bytes behind the last whole member are no part of the stream and are ignored, as gzip and
    SimpleITK do.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=47)  # 32 + 15: the header says which of the two
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
        rest = self._inflate.unused_data
        if len(rest) < 2:
            rest += self._file.read(2 - len(rest))
        if not rest.startswith(b"\x1f\x8b"):
            return False
        self._inflate, self._rest = zlib.decompressobj(wbits=31), rest
        return True


def read_end(file: IO[bytes]) -> None:
    """Read what lies behind the voxels of a stream, so that its checksum is checked; no more than a bounded part."""
    left = BEHIND
    while left > 0 and (block := file.read(min(BLOCK, left))):
        left -= len(block)


def _advise_random(mapped: mmap.mmap) -> None:
    """A box is many short rows: reading ahead of each would read most of the file."""
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
        EOFError: the stream ends before it is full.
    """
    view = part.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + BLOCK])
        if not count:
            raise EOFError(f"{len(view) - done} bytes of its voxels are missing")
        done += count


class RawSink:
    """Streams voxels behind a header, compressed or not; see `ctseg.volume.formats.writer.FormatSink`.

    Args:
        temporary: the file to write.
        header: everything in front of the voxels.
        compression: of the voxels.
        size_at: where in the header the compressed size goes, 20 digits or spaces; None where it has no place.
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
        # No name and no time, so that the same volume gives the same bytes.
        wbits = {"gzip": 31, "zlib": 15}
        self._deflate = zlib.compressobj(4, wbits=wbits[compression]) if compression else None

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        """Channels lie side by side."""
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
