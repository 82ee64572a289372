"""NIfTI-1 and NIfTI-2 headers: position and meaning of the voxels.

Layout: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h. ctseg reads them itself because ITK
fills truncated files with zeros without an error that a caller sees.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ctseg.errors import FileProblem
from ctseg.volume.formats.header_numbers import check_voxels
from ctseg.volume.formats.nifti.label_table import labels_of, read_extensions
from ctseg.volume.formats.nifti.orientation import NiftiOrientation
from ctseg.volume.formats.raw import unpacked

DATATYPES = {
    2: "uint8", 256: "int8", 4: "int16", 512: "uint16", 8: "int32", 768: "uint32", 1024: "int64",
    1280: "uint64", 16: "float32", 64: "float64",
}  # fmt: skip
_COLOUR = {128: "RGB", 2304: "RGBA"}
_FAR = 1 << 31
"""Where voxels start at the latest: the standard reads `vox_offset` as an `int`, and only extensions precede them."""
_SCALE = 1e30
_CHECK = "Check what it is (file PATH) and give it the suffix of its format."


@dataclass(frozen=True)
class NiftiHeader:
    """The fields of a header that are needed to read voxels.

    Attributes:
        shape: voxels along x, y, z and further axes, without axes of one voxel at the end.
        dtype: as stored, byte order included.
        offset: first byte of the voxels in the (uncompressed) file.
        slope, inter: real value = stored value * slope + inter.
        orientation: position of the voxels.
        pair: whether the voxels are in a separate file.
        notes: further text fields.
        labels: metadata of label names, as far as an extension of the header has them.
        doubts: notes on that extension.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    orientation: NiftiOrientation
    pair: bool
    notes: dict[str, str]
    labels: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @property
    def rescaled(self) -> bool:
        return (self.slope, self.inter) not in ((1.0, 0.0), (0.0, 0.0)) and self.slope != 0.0


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the file, decompressed if it is compressed, whatever its name."""
    with path.open("rb") as file, unpacked(file, "gzip" if is_gzip(path) else "") as stream:
        yield stream


def read_nifti_header(path: Path) -> NiftiHeader:
    """Parse a header of either version and byte order.

    Raises:
        FileProblem: not a NIfTI file, or voxels are not real numbers.
        EOFError: the file ends within the header.
        ValueError: invalid numbers.
    """
    with opened(path) as file:
        raw = file.read(348)
        if len(raw) < 348:
            raise EOFError(f"it ends after {len(raw)} bytes, within the header")
        for order in ("<", ">"):
            size = struct.unpack_from(order + "i", raw)[0]
            if size not in (348, 540):
                continue
            raw += file.read(size - 348)
            if len(raw) < size:
                raise EOFError(f"it ends after {len(raw)} bytes, within the header")
            header = (_version_1 if size == 348 else _version_2)(raw, order, path)
            extensions = read_extensions(file, size, None if header.pair else header.offset)
            labels, doubts = labels_of(extensions, order)
            return replace(header, labels=labels, doubts=doubts)
    raise FileProblem(
        f"{path} is not a NIfTI file: it does not start with a NIfTI header.", hint=_CHECK
    )


def _version_1(raw: bytes, order: str, path: Path) -> NiftiHeader:
    if raw[344:347] not in (b"n+1", b"ni1"):
        raise FileProblem(
            f"{path} is an Analyze 7.5 file, whose header does not say which side is left.",
            hint="Export the scan as NIfTI from where it came; if its orientation is known, nibabel or SPM convert it.",
        )

    def field(code: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + code, raw, at)

    orientation = NiftiOrientation(
        pixdim=field("4f", 76),
        qform_code=field("h", 252)[0],
        sform_code=field("h", 254)[0],
        quaternion=field("3f", 256),
        offset=field("3f", 268),
        sform=field("12f", 280),
        unit=raw[123] & 7,
    )
    offset, *scaling = field("3f", 108)
    kind = (field("8h", 40), field("h", 70)[0])
    texts = {"descrip": raw[148:228], "intent_name": raw[328:344]}
    return _make(
        path,
        order,
        kind,
        (_whole(offset), 348, raw[344:347] == b"ni1"),
        scaling,
        (orientation, texts),
    )


def _version_2(raw: bytes, order: str, path: Path) -> NiftiHeader:
    def field(code: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + code, raw, at)

    unit = field("i", 500)[0] & 7
    orientation = NiftiOrientation(
        pixdim=field("4d", 104),
        qform_code=field("i", 344)[0],
        sform_code=field("i", 348)[0],
        quaternion=field("3d", 352),
        offset=field("3d", 376),
        sform=field("12d", 400),
        unit=unit,
    )
    kind = (field("8q", 16), field("h", 12)[0])
    texts = {"descrip": raw[240:320], "intent_name": raw[508:524]}
    position = (field("q", 168)[0], 540, raw[4:7] == b"ni2")
    return _make(path, order, kind, position, field("2d", 176), (orientation, texts))


def _whole(offset: float) -> int:
    """The first byte of the voxels as a whole number; NIfTI-1 stores it as a real number."""
    if not np.isfinite(offset) or abs(offset) > _FAR:
        raise ValueError(f"its voxels start at byte {offset:g}")
    return int(offset)


def _make(
    path: Path,
    order: str,
    kind: tuple[tuple[int, ...], int],
    position: tuple[int, int, bool],
    scaling: Any,
    more: tuple[NiftiOrientation, dict[str, bytes]],
) -> NiftiHeader:
    """Check the fields and put them into a header.

    Args:
        kind: dimensions, and the code of the type.
        position: first byte of the voxels, length of the header, and whether it is one of a pair.
        scaling: slope and intercept.
        more: orientation and texts.
    """
    dim, datatype = kind
    if datatype not in DATATYPES:
        what = _COLOUR.get(datatype, f"type code {datatype}")
        raise FileProblem(
            f"{path} holds {what} voxels; a scan holds one real number per voxel.",
            hint="Convert it to a grey-scale volume first.",
        )
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise FileProblem(
            f"{path} has a damaged header: its dimensions are {list(dim)}.",
            hint="Copy or export the scan again.",
        )
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    check_voxels(shape, path)
    offset, length, pair = position
    if offset > _FAR:
        raise ValueError(f"its voxels start at byte {offset}")
    if any(abs(v) > _SCALE for v in scaling if np.isfinite(v)):
        raise ValueError(f"its scaling is {scaling[0]:g} and {scaling[1]:g}")
    slope, inter = (float(v) if np.isfinite(v) else 0.0 for v in scaling)
    orientation, texts = more
    notes = {key: text.split(b"\0")[0].decode("latin-1").strip() for key, text in texts.items()}
    return NiftiHeader(
        shape=shape,
        dtype=np.dtype(DATATYPES[datatype]).newbyteorder("<" if order == "<" else ">"),
        # as niftilib: some programs write 0 for "right after the header"
        offset=max(offset, 0) if pair else max(offset, length),
        slope=slope,
        inter=inter,
        orientation=orientation,
        pair=pair,
        notes={key: text for key, text in notes.items() if text},
    )
