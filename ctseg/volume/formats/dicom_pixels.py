"""The voxels of a DICOM frame: native or encapsulated, of any common transfer syntax (PS3.5, annexes A and G)."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats.dicom_frames import Frame
from ctseg.volume.formats.dicom_header import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    PIXELS,
    Header,
)

_BASE = "1.2.840.10008.1.2"
_RLE = f"{_BASE}.5"
_NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)


def _lossless_jpeg(data: bytes) -> NDArray[Any]:
    try:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    except RuntimeError:  # 16 bits of some encoders are read by the other library only
        return np.asarray(imagecodecs.ljpeg_decode(data))


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys((f"{_BASE}.4.50", f"{_BASE}.4.51"), imagecodecs.jpeg8_decode),
    **dict.fromkeys((f"{_BASE}.4.57", f"{_BASE}.4.70"), _lossless_jpeg),
    **dict.fromkeys((f"{_BASE}.4.80", f"{_BASE}.4.81"), imagecodecs.jpegls_decode),
    **dict.fromkeys((f"{_BASE}.4.90", f"{_BASE}.4.91"), imagecodecs.jpeg2k_decode),
    **dict.fromkeys(
        (f"{_BASE}.4.201", f"{_BASE}.4.202", f"{_BASE}.4.203"), imagecodecs.jpeg2k_decode
    ),
    **dict.fromkeys(
        (f"{_BASE}.4.110", f"{_BASE}.4.111", f"{_BASE}.4.112"), imagecodecs.jpegxl_decode
    ),
}


def check_syntax(header: Header) -> None:
    """Refuse what is no grey picture, or a compression that is not known here.

    Raises:
        FileProblem: naming it.
    """
    path, syntax = header.path, header.syntax
    if header.integer(0x00280002, 1) != 1 or header.text(0x00280004) in ("RGB", "PALETTE COLOR"):
        raise FileProblem(f"{path} is a colour picture, not a scan.")
    if header.pixel_tag == 0:
        raise FileProblem(f"{path} holds no voxels.", hint="Name the files of an image series.")
    if syntax not in (*_NATIVE, _RLE, *_DECODERS):
        raise FileProblem(
            f"{path} has the transfer syntax {syntax}, which is none of a scan that ctseg knows.",
            hint="Store it again uncompressed, for example with: gdcmconv --raw IN.dcm OUT.dcm",
        )
    if header.pixel_tag == PIXELS[0] and header.integer(0x00280100) not in (8, 16, 32):
        raise FileProblem(
            f"{path} stores {header.integer(0x00280100)} bits a voxel, not 8, 16 or 32."
        )


def dtype_of(frames: list[Frame]) -> np.dtype[Any]:
    """The smallest type that holds every value that the frames may have after rescaling."""
    low, high, whole = 0.0, 0.0, True
    for header, slope, intercept in {
        (id(f.header), f.slope, f.intercept): (f.header, f.slope, f.intercept) for f in frames
    }.values():
        if header.pixel_tag != PIXELS[0]:
            return np.dtype("float32" if header.pixel_tag == PIXELS[1] else "float64")
        bits, signed = _bits(header)
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        ends = sorted((least * slope + intercept, most * slope + intercept))
        low, high = min(low, ends[0]), max(high, ends[1])
        whole = whole and slope.is_integer() and intercept.is_integer()
        if not whole and bits > 24:
            return np.dtype("float64")
    if not whole:
        return np.dtype("float32")
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32"):
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            return np.dtype(name)
    return np.dtype("int64")


def _bits(header: Header) -> tuple[int, bool]:
    allocated = header.integer(0x00280100, 16)
    stored = header.integer(0x00280101, allocated)
    return (stored if 0 < stored <= allocated else allocated), header.integer(0x00280103) == 1


def pixels(frame: Frame, dtype: np.dtype[Any], rows: tuple[int, int] | None = None) -> NDArray[Any]:
    """One frame, or some of its rows, rescaled, as [Y, X].

    Args:
        dtype: as `dtype_of` gave it.
        rows: start and stop; of an uncompressed frame nothing else is read.
    """
    height, _ = frame.size_yx
    start, stop = rows or (0, height)
    encapsulated = frame.header.pixel_bytes is None
    stored = _decoded(frame)[start:stop] if encapsulated else _native(frame, start, stop)
    if frame.header.pixel_tag == PIXELS[0]:
        stored = _unpacked_bits(stored, frame.header)
    if (frame.slope, frame.intercept) == (1.0, 0.0):
        return stored.astype(dtype, copy=False)
    if dtype.kind == "f":
        return (stored * np.float64(frame.slope) + frame.intercept).astype(dtype)
    out: NDArray[Any] = stored.astype(dtype)  # whole numbers wrap around and come back
    out *= np.array(int(frame.slope)).astype(dtype)
    out += np.array(int(frame.intercept)).astype(dtype)
    return out


def _native(frame: Frame, start: int, stop: int) -> NDArray[Any]:
    header = frame.header
    height, width = frame.size_yx
    kind = {PIXELS[1]: "f4", PIXELS[2]: "f8"}.get(
        header.pixel_tag, f"u{header.integer(0x00280100) // 8}"
    )
    stored = np.dtype(header.order + kind)
    row = width * stored.itemsize
    needed = (frame.index + 1) * height * row
    if (header.pixel_bytes or 0) < needed:
        raise EOFError(f"{header.path.name} has {header.pixel_bytes} of {needed} bytes of voxels")
    at = header.pixel_start + (frame.index * height + start) * row
    data = _bytes(header, at, (stop - start) * row)
    return np.frombuffer(data, stored).reshape(stop - start, width)


def _bytes(header: Header, at: int, count: int) -> bytes:
    with header.path.open("rb") as file:
        if header.syntax == DEFLATED:
            file.seek(_deflated_start(header))
            data = zlib.decompressobj(-15).decompress(file.read())[at : at + count]
        else:
            file.seek(at)
            data = file.read(count)
    if len(data) < count:
        raise EOFError(f"{header.path.name} has {len(data)} of {count} bytes of voxels")
    return data


def _deflated_start(header: Header) -> int:
    """Where the deflated stream starts: behind the file's meta information, whose length it gives."""
    with header.path.open("rb") as file:
        head = file.read(144)
    (length,) = struct.unpack_from("<I", head, 140)
    return 144 + int(length)


def _decoded(frame: Frame) -> NDArray[Any]:
    header = frame.header
    data = b"".join(_bytes(header, at, count) for at, count in _fragments(header)[frame.index])
    if header.syntax == _RLE:
        kind = f"<u{header.integer(0x00280100) // 8}"
        array = np.frombuffer(imagecodecs.dicomrle_decode(data, np.dtype(kind)), kind)
    else:
        try:
            array = np.asarray(_DECODERS[header.syntax](data))
        except Exception as error:  # imagecodecs has an error class for each of its codecs
            raise ValueError(f"{frame.name}: {error}") from error
    if array.size != frame.size_yx[0] * frame.size_yx[1]:
        raise ValueError(f"{frame.name} unpacks to {array.shape}, not {frame.size_yx} voxels")
    return array.reshape(frame.size_yx)


def _fragments(header: Header) -> list[list[tuple[int, int]]]:
    """For each frame the places and lengths of its compressed pieces in the file."""
    return _fragments_of(
        str(header.path), header.pixel_start, max(header.integer(0x00280008, 1), 1)
    )


@functools.lru_cache(maxsize=64)
def _fragments_of(path: str, start: int, frames: int) -> list[list[tuple[int, int]]]:
    pieces: list[tuple[int, int]] = []
    with open(path, "rb") as file:  # noqa: PTH123
        at = start
        while True:
            file.seek(at)
            head = file.read(8)
            if len(head) < 8:
                raise EOFError("its compressed voxels end too early")
            group, element, length = struct.unpack("<HHI", head)
            if (group, element) != (0xFFFE, 0xE000):
                break
            pieces.append((at + 8, length))
            at += 8 + length
        table_at, table_length = pieces[0]
        file.seek(table_at)
        offsets = struct.unpack(f"<{table_length // 4}I", file.read(table_length // 4 * 4))
        size = file.seek(0, 2)
    if pieces[-1][0] + pieces[-1][1] > size:
        raise EOFError("its compressed voxels end too early")
    first = table_at + table_length
    pieces = pieces[1:]
    if frames == 1:
        return [pieces]
    if len(pieces) == frames:
        return [[piece] for piece in pieces]
    if len(offsets) != frames:
        raise FileProblem(
            f"{path} has {frames} frames in {len(pieces)} compressed pieces and does not say which belong together.",
            hint="Store it again uncompressed, for example with: gdcmconv --raw IN.dcm OUT.dcm",
        )
    out: list[list[tuple[int, int]]] = [[] for _ in range(frames)]
    for place, length in pieces:
        number = int(np.searchsorted(offsets, place - 8 - first, side="right")) - 1
        out[number].append((place, length))
    return out


def _unpacked_bits(stored: NDArray[Any], header: Header) -> NDArray[Any]:
    """Stored bits as numbers: other bits of the cell are masked, the highest is the sign where there is one."""
    bits, signed = _bits(header)
    if stored.dtype.kind == "i":  # JPEG 2000 knows the sign of its voxels
        return stored
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    shift = header.integer(0x00280102, bits - 1) + 1 - bits
    if shift > 0 and header.pixel_bytes is not None:
        stored = stored >> shift
    cell = stored.dtype.itemsize * 8
    if not signed:
        return stored if bits >= cell else stored & stored.dtype.type(2**bits - 1)
    if bits > cell:  # a codestream of fewer bits than the header says holds no negative numbers
        return stored
    whole = (stored << (cell - bits)) if bits < cell else stored
    return whole.view(stored.dtype.str.replace("u", "i")) >> (cell - bits)
