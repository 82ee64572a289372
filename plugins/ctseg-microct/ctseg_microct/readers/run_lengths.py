"""HxByteRLE, the run lengths of AmiraMesh: bytes, decoded as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.volume.formats.raw import Raw, UnpackTarget
from ctseg.volume.formats.raw_source import raw_source
from ctseg.volume.formats.source import ScanHeader, Source
from ctseg.volume.geometry import Geometry

BLOCK = 1 << 20
LARGEST_RATIO = 64
"""A pair of bytes stands for at most 127 voxels."""


def run_length_source(
    raw: Raw, size: int, geometry: Geometry, metadata: Mapping[str, Any]
) -> Source:
    """A source of voxels in run lengths; every read decodes from the start, unless the voxels are unpacked first.

    Args:
        raw: the block, as if it were uncompressed.
        size: bytes of the runs; 0 for all the rest of the file.

    Raises:
        EOFError: so few bytes cannot hold the voxels.
    """
    available = raw.path.stat().st_size - raw.start
    if (size or available) * LARGEST_RATIO < raw.nbytes:
        raise EOFError(f"it is too small for {raw.nbytes} bytes of voxels")
    plane = raw.nbytes // raw.shape_zyx[0]

    def load(start: int, stop: int) -> NDArray[Any]:
        wanted = np.empty((stop - start) * plane, np.uint8)
        at, first = 0, start * plane
        for block in _decoded(raw, size or available):
            begin, end = max(first - at, 0), min(first + len(wanted) - at, len(block))
            if begin < end:
                wanted[at + begin - first : at + end - first] = block[begin:end]
            at += len(block)
            if at >= first + len(wanted):
                break
        _, y, x = raw.shape_zyx
        voxels = wanted.reshape(stop - start, y, x, raw.channels)
        return np.ascontiguousarray(np.moveaxis(voxels, -1, 0))

    def unpack(target: UnpackTarget) -> Source:
        target.reserve(raw.nbytes)
        for block in _decoded(raw, size or available):
            target.write(block.tobytes())
        whole = Raw(target.path, raw.dtype, raw.shape_zyx, raw.channels, raw.interleaved)
        return raw_source(whole, raw.path, geometry, metadata, close=target.close)

    header = ScanHeader(geometry, raw.dtype, raw.channels, by_region=False, metadata=metadata)
    return Source(raw.path, header, load, unpack=unpack)


def _decoded(raw: Raw, size: int) -> Iterator[NDArray[np.uint8]]:
    """Blocks of decoded bytes, all voxels together and none more.

    A count below 128 repeats the next byte; a count of 128 + n is followed by n bytes.

    Raises:
        EOFError: the runs end before the voxels.
    """
    remaining, rest = raw.nbytes, b""
    with raw.path.open("rb") as file:
        file.seek(raw.start)
        while remaining:
            data = rest + file.read(min(BLOCK, size))
            size -= len(data) - len(rest)
            out, at = bytearray(), 0
            while at < len(data):
                count = data[at]
                end = at + 1 + (count - 128 if count > 128 else 1)
                if end > len(data):
                    break
                out += data[at + 1 : end] if count > 128 else data[at + 1 : end] * count
                at = end
            if at == 0:
                raise EOFError(f"{remaining} bytes of its voxels are missing")
            rest = data[at:]
            block = np.frombuffer(bytes(out[:remaining]), np.uint8)
            remaining -= len(block)
            yield block
