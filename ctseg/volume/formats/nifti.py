"""NIfTI: .nii.gz and .nii."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label, VolumeSource
from ctseg.volume.formats import itk, paths
from ctseg.volume.formats.nifti_header import (
    MICROMETRE,
    NiftiHeader,
    is_gzip,
    read_nifti_header,
)
from ctseg.volume.formats.nifti_sink import NiftiSink
from ctseg.volume.formats.raw import Raw
from ctseg.volume.formats.raw_source import raw_source
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.geometry import Geometry

_UNITS_IN_MM = {1: 1000.0, 2: 1.0, MICROMETRE: 1e-3}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def open_nifti(path: Path, *, channels: str | None = None) -> Source:
    """Open a NIfTI file.

    Args:
        path: the file.
        channels: `last` reads the fourth axis as channels; without it a fourth axis is refused, since it may
            as well be time.

    Raises:
        FileProblem: missing, damaged, not NIfTI, or not one scalar volume.
        BadInput: another value of `channels`.
    """
    if channels not in (None, "last"):
        raise BadInput(
            f"The option channels of a NIfTI file is 'last' or absent, not '{channels}'."
        )
    check_file(path)
    with reading(path):
        header = read_nifti_header(path)
        count = _channel_count(header, path, channels)
        geometry, metadata = _geometry(header, path)
        compressed = is_gzip(path)
        x, y, z = header.shape[:3]
        raw = Raw(
            path,
            header.dtype,
            (z, y, x),
            channels=count,
            compression="gzip" if compressed else "",
            skip=header.offset,
        )
        raw.check_size()
    dtype = np.dtype("float32") if header.rescaled else header.dtype
    if header.rescaled and header.dtype.itemsize == 8:
        dtype = np.dtype("float64")

    return raw_source(
        raw,
        path,
        geometry,
        dtype,
        metadata=metadata,
        convert=lambda part: _rescale(part, header, dtype),
    )


def _channel_count(header: NiftiHeader, path: Path, channels: str | None) -> int:
    dims = len(header.shape)
    if dims < 3:
        raise FileProblem(f"{path} has {dims} axes; a volume has three.")
    if dims == 3:
        return 1
    if dims > 4:
        raise FileProblem(
            f"{path} has {dims} axes of {header.shape} voxels; a volume has three.",
            hint="Store vectors and time steps as separate volumes.",
        )
    if channels is None:
        raise FileProblem(
            f"{path} has four axes of {header.shape} voxels (x, y, z, and channels or time).",
            hint='If the fourth axis holds channels, read it with channels="last"; a Decathlon data set says '
            "so by listing several modalities in dataset.json. Otherwise store one file a time step.",
        )
    return header.shape[3]


def _geometry(header: NiftiHeader, path: Path) -> tuple[Geometry, dict[str, str]]:
    """The grid as ITK reads it; from the header's own matrix where ITK refuses a slight shear."""
    unit = "um" if header.spatial_unit == MICROMETRE else "mm"
    x, y, z = header.shape[:3]
    try:
        reader = itk.read_header(path, "NiftiImageIO")
    except RuntimeError:
        if header.sform is None:
            raise
        matrix = _RAS_TO_LPS @ header.sform * _UNITS_IN_MM.get(header.spatial_unit, 1.0)
        spacing = np.linalg.norm(matrix[:, :3], axis=0)
        direction = matrix[:, :3] / np.where(spacing > 0, spacing, 1.0)
        grid = itk.make_geometry(
            path, (z, y, x), spacing.tolist(), matrix[:, 3].tolist(), direction, unit
        )
        return grid, {}
    dims = reader.GetDimension()
    direction = np.asarray(reader.GetDirection(), np.float64).reshape(dims, dims)[:3, :3]
    grid = itk.make_geometry(
        path, (z, y, x), reader.GetSpacing()[:3], reader.GetOrigin()[:3], direction, unit
    )
    notes = {key: reader.GetMetaData(key) for key in ("descrip", "intent_name")}
    return grid, {key: value for key, value in notes.items() if value}


def _rescale(array: NDArray[Any], header: NiftiHeader, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not header.rescaled:
        return array
    return (array.astype(np.float64) * header.slope + header.inter).astype(dtype)


def write_nifti(
    path: Path,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),  # noqa: ARG001
    reference: VolumeSource | None = None,  # noqa: ARG001
) -> Writer:
    """A writer of .nii or .nii.gz that streams; label names have no place in NIfTI."""
    stored = check_dtype(dtype, itk.DTYPES, format_name="NIfTI")
    suffix = paths.suffix_of(path, paths.NIFTI) or paths.NIFTI[0]
    if max(geometry.shape_zyx) > np.iinfo(np.int16).max:
        raise BadInput(
            f"NIfTI holds at most 32767 voxels along an axis, not {geometry.shape_zyx}.",
            hint="Write HDF5 instead: give the output the suffix .h5",
        )
    return Writer(
        path,
        suffix,
        geometry,
        stored,
        channels,
        lambda temporary: NiftiSink(temporary, geometry, stored, channels, gz=suffix == ".nii.gz"),
    )
