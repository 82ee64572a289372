"""The voxels of a DICOM frame: native or encapsulated, of any common transfer syntax (PS3.5, annexes A and G)."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import (
    encapsulate,
    generate_fragments,
    parse_basic_offsets,
    parse_fragments,
)
from pydicom.pixels.decoders.base import get_decoder

from ctseg.errors import FileProblem
from ctseg.volume.formats.dicom.frames import Frame
from ctseg.volume.formats.dicom.header import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    MODALITY_LUT,
    PIXELS,
    BoundedFile,
    Header,
    inflated_voxels,
    quiet_pydicom,
)

_BASE = "1.2.840.10008.1.2"
_RLE = f"{_BASE}.5"
_STARTS_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)


def _lossless_jpeg(data: bytes) -> NDArray[Any]:
    try:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    except RuntimeError:  # only the other library reads some encoders' 16 bits
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
    """Refuse colour pictures and unknown compressions.

    Raises:
        FileProblem: the message names the file.
    """
    path, syntax = header.path, header.syntax
    if header.integer(0x00280002, 1) != 1 or header.text(0x00280004) in ("RGB", "PALETTE COLOR"):
        raise FileProblem(f"{path} is a colour picture, not a scan.")
    if MODALITY_LUT in header.elements and header.elements[MODALITY_LUT].items:
        raise FileProblem(
            f"{path} maps its values by a table (Modality LUT Sequence), which ctseg does not apply.",
            hint="Store it again with a RescaleSlope and RescaleIntercept.",
        )
    if header.pixel_tag == 0:
        raise FileProblem(f"{path} holds no voxels.", hint="Name the files of an image series.")
    if syntax not in (*_NATIVE, _RLE, *_DECODERS):
        raise FileProblem(
            f"{path} has the transfer syntax {syntax}, which ctseg does not support.",
            hint="Store it again uncompressed, for example with: gdcmconv --raw IN.dcm OUT.dcm",
        )
    if header.pixel_tag == PIXELS[0] and header.integer(0x00280100) not in (8, 16, 32):
        raise FileProblem(
            f"{path} stores {header.integer(0x00280100)} bits a voxel, not 8, 16 or 32."
        )


def dtype_of(frames: list[Frame]) -> np.dtype[Any]:
    """The smallest type that holds every value that the frames may have after rescaling."""
    low, high, is_whole = 0.0, 0.0, True
    for header, slope, intercept in {
        (id(f.header), f.slope, f.intercept): (f.header, f.slope, f.intercept) for f in frames
    }.values():
        if header.pixel_tag != PIXELS[0]:
            return np.dtype("float32" if header.pixel_tag == PIXELS[1] else "float64")
        bits, signed = _bits(header)
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        ends = sorted((least * slope + intercept, most * slope + intercept))
        low, high = min(low, ends[0]), max(high, ends[1])
        is_whole = is_whole and slope.is_integer() and intercept.is_integer()
        if not is_whole and bits > 24:
            return np.dtype("float64")
    if not is_whole:
        return np.dtype("float32")
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32"):
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            return np.dtype(name)
    inside = low >= -(2.0**63) and high < 2.0**63
    return np.dtype("int64" if inside else "float64")


def _bits(header: Header) -> tuple[int, bool]:
    allocated = header.integer(0x00280100, 16)
    stored = header.integer(0x00280101, allocated)
    return (stored if 0 < stored <= allocated else allocated), header.integer(0x00280103) == 1


def pixels(frame: Frame, dtype: np.dtype[Any], rows: tuple[int, int] | None = None) -> NDArray[Any]:
    """One frame, or some of its rows, rescaled, as [Y, X].

    Args:
        dtype: type from `dtype_of`.
        rows: start and stop; of an uncompressed frame only these rows are read.
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
    out: NDArray[Any] = stored.astype(dtype)  # whole numbers wrap around and wrap back
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
    if header.syntax == DEFLATED:
        data = inflated_voxels(header.path, header.pixel_tag)[at : at + count]
    else:
        with BoundedFile(header.path) as file:
            file.seek(at)
            data = file.read(count)
    if len(data) < count:
        raise EOFError(f"{header.path.name} has {len(data)} of {count} bytes of voxels")
    return data


def _decoded(frame: Frame) -> NDArray[Any]:
    header = frame.header
    data = _codestream(header, frame.index)
    size = _codestream_size(data)
    if size is not None and size != frame.size_yx:
        raise ValueError(f"{frame.name} holds {size} voxels (y, x), not {frame.size_yx}")
    try:
        array = (
            _run_lengths(frame, data) if header.syntax == _RLE else _DECODERS[header.syntax](data)
        )
    except Exception as error:  # imagecodecs has an error class for each of its codecs
        raise ValueError(f"{frame.name}: {error}") from error
    array = np.asarray(array)
    if array.size != frame.size_yx[0] * frame.size_yx[1]:
        raise ValueError(f"{frame.name} unpacks to {array.shape}, not {frame.size_yx} voxels")
    return array.reshape(frame.size_yx)


def _codestream_size(data: bytes) -> tuple[int, int] | None:
    """Height and width declared by a compressed frame, read before a decoder allocates memory; None if undeclared.

    JPEG and JPEG-LS declare it in their start of frame, JPEG 2000 in its SIZ segment.
    """
    at = data.find(b"\xff\x4f\xff\x51")
    if at >= 0 and len(data) >= at + 24:
        right, bottom, left, top = struct.unpack(">4I", data[at + 8 : at + 24])
        return bottom - top, right - left
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _STARTS_OF_FRAME:
            height, width = struct.unpack(">2H", data[at + 5 : at + 9])
            return (height, width) if height else None
        at += 1 if marker == 0xFF else 2 + max(length, 2)
    return None


def _run_lengths(frame: Frame, data: bytes) -> NDArray[Any]:
    """A frame decoded by pydicom, since imagecodecs' decoder crashes on damaged data."""
    bits = frame.header.integer(0x00280100)
    options: dict[str, Any] = {
        "rows": frame.size_yx[0], "columns": frame.size_yx[1], "number_of_frames": 1, "samples_per_pixel": 1,
        "bits_allocated": bits, "bits_stored": bits, "pixel_representation": 0, "pixel_keyword": "PixelData",
        "photometric_interpretation": "MONOCHROME2", "decoding_plugin": "pydicom",
    }  # fmt: skip
    with quiet_pydicom():
        out: NDArray[Any] = get_decoder(_RLE).as_array(
            encapsulate([data]), raw=True, validate=False, **options
        )[0]
    return out


def _codestream(header: Header, index: int) -> bytes:
    """The compressed fragments of a frame, joined."""
    count = max(header.integer(0x00280008, 1), 1)
    starts, pieces = _places(str(header.path), header.pixel_start, count)
    with BoundedFile(header.path) as file:
        file.seek(starts[index])
        data = b"".join(islice(generate_fragments(file), pieces[index]))
        if len(file.read(8)) < 8:  # another fragment or the end mark must follow
            raise EOFError("its compressed voxels end too early")
    return data


@functools.lru_cache(maxsize=64)
def _places(path: str, start: int, frames: int) -> tuple[list[int], list[int]]:
    """For each frame the offset of its first compressed fragment in the file, and the number of its fragments."""
    with BoundedFile(Path(path)) as file:
        file.seek(start)
        offsets = parse_basic_offsets(file)
        first = file.tell()
        count, pieces = parse_fragments(file)
    if count == 0:
        raise EOFError("its compressed voxels end too early")
    if len(offsets) not in (0, frames):
        raise ValueError(f"it says {frames} frames and has a table of {len(offsets)}")
    if frames == 1:
        return [pieces[0]], [count]
    if count == frames:
        return pieces, [1] * frames
    starts = [first + offset for offset in offsets]
    if len(starts) != frames:
        raise FileProblem(
            f"{path} has {frames} frames in {count} compressed pieces and does not say which belong together.",
            hint="Store it again uncompressed, for example with: gdcmconv --raw IN.dcm OUT.dcm",
        )
    order = np.searchsorted(pieces, [*starts, pieces[-1] + 1])
    if not set(starts) <= set(pieces) or (np.diff(order) < 1).any():
        raise ValueError("its table of compressed frames is damaged")
    return starts, np.diff(order).tolist()


def _unpacked_bits(stored: NDArray[Any], header: Header) -> NDArray[Any]:
    """Stored bits as numbers: unused bits of the cell are masked; in signed data the highest bit is the sign."""
    bits, signed = _bits(header)
    if stored.dtype.kind == "i":  # JPEG 2000 stores the sign itself
        return stored
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    shift = header.integer(0x00280102, bits - 1) + 1 - bits
    if shift > 0 and header.pixel_bytes is not None:
        stored = stored >> shift
    cell = stored.dtype.itemsize * 8
    if not signed:
        return stored if bits >= cell else stored & stored.dtype.type(2**bits - 1)
    if bits > cell:  # a codestream of fewer bits than the header says has no negative numbers
        return stored
    shifted = (stored << (cell - bits)) if bits < cell else stored
    return shifted.view(stored.dtype.str.replace("u", "i")) >> (cell - bits)
