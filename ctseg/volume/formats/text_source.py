"""Voxels written as text (`ascii` and `hex` of NRRD, MetaImage without `BinaryData`), and voxels in several files."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.specs import Zyx
from ctseg.volume.formats.header_numbers import parse_text
from ctseg.volume.formats.raw import Raw
from ctseg.volume.formats.source import ScanHeader, Source
from ctseg.volume.geometry import Geometry


def text_source(
    raw: Raw, path: Path, geometry: Geometry, metadata: Mapping[str, Any], *, hexadecimal: bool
) -> Source:
    """A source of voxels in text; every read parses all of them.

    Args:
        raw: position and order of the voxels, as if they were bytes.
        hexadecimal: whether the text has two hexadecimal digits per byte instead of decimal numbers.

    Raises:
        EOFError: the file is too short for that many numbers.
    """
    count = raw.nbytes // raw.dtype.itemsize
    available = raw.path.stat().st_size - raw.start - raw.skip
    needed = 2 * raw.nbytes if hexadecimal else 2 * count - 1
    if available < needed:
        raise EOFError(f"it has {max(available, 0)} of at least {needed} characters of voxels")

    def load(start: int, stop: int) -> NDArray[Any]:
        with raw.path.open("rb") as file:
            file.seek(raw.start + raw.skip)
            text = file.read()
        array = _from_hex(text, raw) if hexadecimal else parse_text(text, count, raw.dtype)
        array = array.reshape(raw.stored_shape)
        return (np.moveaxis(array, -1, 0) if raw.interleaved else array)[:, start:stop]

    header = ScanHeader(geometry, raw.dtype, raw.channels, by_region=False, metadata=metadata)
    return Source(path, header, load)


def _from_hex(text: bytes, raw: Raw) -> NDArray[Any]:
    digits = b"".join(text.split())[: 2 * raw.nbytes]
    if len(digits) < 2 * raw.nbytes:
        raise EOFError(f"it has {len(digits) // 2} of {raw.nbytes} bytes of voxels")
    return np.frombuffer(binascii.unhexlify(digits), raw.dtype)


def pieces_source(
    files: Sequence[Path],
    path: Path,
    geometry: Geometry,
    metadata: Mapping[str, Any],
    piece: Callable[[Path, Zyx], Raw],
) -> Source:
    """A source of several files with equal numbers of slices, in the order of the list.

    Args:
        piece: `piece(file, shape_zyx)` describes the block of voxels in a file.

    Raises:
        FileProblem: the slices do not divide evenly among the files.
        EOFError: one of the files is too short.
    """
    depth, y, x = geometry.shape_zyx
    if not files or depth % len(files):
        raise FileProblem(
            f"{path} has {depth} slices in {len(files)} files, which cannot all hold the same number.",
            hint="Its header is damaged or files are missing from its list; copy it again.",
        )
    each = depth // len(files)
    parts = [piece(file, (each, y, x)) for file in files]
    for part in parts:
        part.check_size()

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        out = []
        for index in range(start[0] // each, -(-stop[0] // each)):
            low, high = max(start[0] - index * each, 0), min(stop[0] - index * each, each)
            out.append(parts[index].box((low, *start[1:]), (high, *stop[1:])))
        return np.concatenate(out, axis=1)

    by_region = not any(part.compression for part in parts)
    return Source(
        path,
        ScanHeader(geometry, parts[0].dtype, parts[0].channels, by_region, metadata),
        lambda start, stop: load_box((start, 0, 0), (stop, y, x)),
        load_box=load_box,
    )
