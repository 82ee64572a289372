"""NIfTI-1 and NIfTI-2 headers: where the voxels are and what they mean.

Layout: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h and nifti2.h. SimpleITK gives the geometry; the
voxels are read here because ITK fills what a truncated file lacks with zeros and says nothing that a caller sees.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem

DATATYPES = {
    2: "uint8", 256: "int8", 4: "int16", 512: "uint16", 8: "int32", 768: "uint32", 1024: "int64",
    1280: "uint64", 16: "float32", 64: "float64",
}  # fmt: skip
_COLOUR = {128: "RGB", 2304: "RGBA"}
MICROMETRE = 3


@dataclass(frozen=True)
class NiftiHeader:
    """The fields that are needed to read voxels.

    Attributes:
        shape: voxels along x, y, z and further axes, axes of one voxel at the end left out.
        dtype: as stored, byte order included.
        offset: first byte of the voxels in the (uncompressed) file.
        slope, inter: stored values times slope plus inter are the real ones.
        spatial_unit: code of the unit of spacing and origin.
        sform: the 3x4 matrix from index to position in RAS and file units, None where the header has none.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    spatial_unit: int
    sform: NDArray[np.float64] | None

    @property
    def rescaled(self) -> bool:
        return (self.slope, self.inter) not in ((1.0, 0.0), (0.0, 0.0)) and self.slope != 0.0

    @property
    def voxels(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes_needed(self) -> int:
        return self.voxels * self.dtype.itemsize


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, uncompressed on the way where it is compressed, whatever its name says."""
    if is_gzip(path):
        with gzip.open(path, "rb") as file:
            yield cast(IO[bytes], file)
    else:
        with path.open("rb") as plain:
            yield plain


def read_nifti_header(path: Path) -> NiftiHeader:
    """Parse a header of either version and byte order.

    Raises:
        FileProblem: no NIfTI file, or voxels that are no real numbers.
        EOFError: the file ends within the header.
    """
    with opened(path) as file:
        raw = file.read(540)
    if len(raw) < 348:
        raise EOFError(f"it ends after {len(raw)} bytes, within the header")
    for order in ("<", ">"):
        size = struct.unpack_from(order + "i", raw)[0]
        if size == 348:
            return _version_1(raw, order, path)
        if size == 540:
            return _version_2(raw, order, path)
    raise FileProblem(
        f"{path} is no NIfTI file: it does not start with a NIfTI header.",
        hint="Check what it is (file PATH) and give it the suffix of its format.",
    )


def _version_1(raw: bytes, order: str, path: Path) -> NiftiHeader:
    if raw[344:347] != b"n+1":
        raise FileProblem(
            f"{path} is an Analyze or two-file NIfTI header; its voxels lie elsewhere.",
            hint="Convert the .hdr/.img pair to .nii.gz first.",
        )
    dim = struct.unpack_from(order + "8h", raw, 40)
    datatype = struct.unpack_from(order + "h", raw, 70)[0]
    offset, slope, inter = struct.unpack_from(order + "3f", raw, 108)
    sform_code = struct.unpack_from(order + "h", raw, 254)[0]
    sform = np.array(struct.unpack_from(order + "12f", raw, 280)).reshape(3, 4)
    start = max(
        int(offset), 348
    )  # as niftilib: some programs write 0 for "right behind the header"
    return _make(path, order, dim, datatype, start, (slope, inter), raw[123], sform_code, sform)


def _version_2(raw: bytes, order: str, path: Path) -> NiftiHeader:
    datatype = struct.unpack_from(order + "h", raw, 12)[0]
    dim = struct.unpack_from(order + "8q", raw, 16)
    offset = struct.unpack_from(order + "q", raw, 168)[0]
    scaling = struct.unpack_from(order + "2d", raw, 176)
    sform_code = struct.unpack_from(order + "i", raw, 348)[0]
    sform = np.array(struct.unpack_from(order + "12d", raw, 400)).reshape(3, 4)
    unit = struct.unpack_from(order + "i", raw, 500)[0]
    start = max(offset, 540)
    return _make(path, order, dim, datatype, start, scaling, unit, sform_code, sform)


def _make(
    path: Path,
    order: str,
    dim: tuple[int, ...],
    datatype: int,
    offset: int,
    scaling: tuple[float, float],
    unit: int,
    sform_code: int,
    sform: NDArray[np.float64],
) -> NiftiHeader:
    if datatype not in DATATYPES:
        what = _COLOUR.get(datatype, f"type code {datatype}")
        raise FileProblem(
            f"{path} holds {what} voxels; a scan holds one real number a voxel.",
            hint="Convert it to a grey-scale volume first.",
        )
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise FileProblem(f"{path} has a damaged header: its dimensions are {list(dim)}.")
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    slope, inter = (float(v) if np.isfinite(v) else 0.0 for v in scaling)
    return NiftiHeader(
        shape=shape,
        dtype=np.dtype(DATATYPES[datatype]).newbyteorder("<" if order == "<" else ">"),
        offset=offset,
        slope=slope,
        inter=inter,
        spatial_unit=unit & 7,
        sform=sform if sform_code > 0 else None,
    )
