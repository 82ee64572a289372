"""NIfTI: .nii.gz and .nii, and pairs of .hdr and .img for reading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats import paths
from ctseg.volume.formats.affine import check_straighten, straight_grid
from ctseg.volume.formats.data_files import data_file
from ctseg.volume.formats.nifti.header import NiftiHeader, is_gzip, read_nifti_header
from ctseg.volume.formats.nifti.label_table import label_extension
from ctseg.volume.formats.nifti.orientation import METADATA
from ctseg.volume.formats.nifti.sink import NiftiSink, make_nifti_header
from ctseg.volume.formats.raw import Raw
from ctseg.volume.formats.raw_source import Scaling, raw_source, with_surplus
from ctseg.volume.formats.source import Source, check_file, reading
from ctseg.volume.formats.straighten import straightened
from ctseg.volume.formats.writer import DTYPES, Writer, check_dtype
from ctseg.volume.geometry import Geometry
from ctseg.volume.header import VolumeHeader


def open_nifti(
    path: Path,
    *,
    channels: str | None = None,
    straighten: str = "no",
    data_folder: str | None = None,
) -> Source:
    """Open a NIfTI file, or a pair by either of its names.

    Args:
        path: the file.
        channels: `last` reads the fourth axis as channels; without it a fourth axis is refused, since it may
            as well be time.
        straighten: `yes` resamples a sheared grid onto one that is not, linearly; `nearest` does so for label maps.
        data_folder: a folder that may contain the `.img` of a pair at any depth, besides that of the header.

    Raises:
        FileProblem: missing, damaged, not NIfTI, sheared, or not one scalar volume.
        BadInput: an invalid value of `channels` or `straighten`.
    """
    if channels not in (None, "last"):
        raise BadInput(
            f"The option channels of a NIfTI file is 'last' or absent, not '{channels}'."
        )
    how = check_straighten(straighten)
    check_file(path)
    header_file = _header_of(path)
    with reading(header_file):
        header = read_nifti_header(header_file)
        count = _channel_count(header, path, channels)
        x, y, z = header.shape[:3]
        affine, notes = header.orientation.affine((z, y, x))
        straight = straight_grid(path, affine, how)
        stored = straight.geometry if straight.skew is None else Geometry((z, y, x))
    voxels = _voxels_of(header_file, header, data_folder)
    with reading(voxels):
        raw = Raw(
            voxels,
            header.dtype,
            (z, y, x),
            channels=count,
            compression="gzip" if is_gzip(voxels) else "",
            skip=header.offset,
        )
        raw.check_size()
    metadata = {
        **header.notes, **header.labels, METADATA: header.orientation,
        "notes": [*notes, *header.doubts],
    }  # fmt: skip
    source = raw_source(raw, path, stored, with_surplus(metadata, raw), scaling=_scaling(header))
    with reading(path):
        return straightened(source, straight, how)


def _header_of(path: Path) -> Path:
    """The file with the header: the path itself, or the `.hdr` beside an `.img`."""
    if paths.suffix_of(path, paths.NIFTI_VOXELS) is None:
        return path
    partner = paths.nifti_partner(path)
    if partner is None:
        raise FileProblem(
            f"{path} has no header beside it.",
            hint=f"Copy {path.name.split('.img')[0]}.hdr together with it.",
        )
    return partner


def _voxels_of(header_file: Path, header: NiftiHeader, data_folder: str | None) -> Path:
    """The file with the voxels: the header's own, or the `.img` beside a `.hdr`."""
    if not header.pair:
        return header_file
    partner = paths.nifti_partner(header_file)
    if partner is None:
        raise FileProblem(
            f"{header_file} keeps its voxels in an .img file, which does not lie beside it.",
            hint="Copy the .img file together with the .hdr, under the same name.",
        )
    file = data_file(header_file, partner.name, data_folder)
    check_file(file)
    return file


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
            hint='If the fourth axis holds channels, read it with channels="last"; a Decathlon data set declares '
            "this by listing several modalities in dataset.json. Otherwise store one file per time step.",
        )
    return header.shape[3]


def _scaling(header: NiftiHeader) -> Scaling | None:
    """The header's slope and intercept; None for numbers that are stored as they are."""
    if not header.rescaled:
        return None
    dtype = np.dtype("float64" if header.dtype.itemsize == 8 else "float32")

    def rescale(stored: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):  # infinite where the file says so
            return (stored.astype(np.float64) * header.slope + header.inter).astype(dtype)

    return Scaling(dtype, rescale)


def write_nifti(path: Path, header: VolumeHeader) -> Writer:
    """A writer of .nii or .nii.gz that streams; a label map has its names in a header extension.

    A result on the grid of a NIfTI file gets that file's qform, sform and codes, so that no program that
    prefers the other one shifts the result against its scan.
    """
    if paths.suffix_of(path, paths.NIFTI_HEADERS + paths.NIFTI_VOXELS):
        raise BadInput(f"{path}: pairs of files are not written.", hint="Use the suffix .nii.gz")
    stored = replace(header, dtype=check_dtype(header.dtype, DTYPES, format_name="NIfTI"))
    geometry, reference = header.geometry, header.reference
    suffix = paths.suffix_of(path, paths.NIFTI) or paths.NIFTI[0]
    if max(geometry.shape_zyx) > np.iinfo(np.int16).max:
        raise BadInput(
            f"NIfTI holds at most 32767 voxels along an axis, not {geometry.shape_zyx}.",
            hint="Write HDF5 instead: give the output the suffix .h5",
        )
    orientation = reference.metadata.get(METADATA) if reference is not None else None
    matching = orientation if orientation is not None and orientation.is_of(geometry) else None
    is_map = stored.channels is None and stored.dtype.kind in "iu"
    extension = label_extension(header.labels) if is_map else b""
    first_bytes = make_nifti_header(geometry, stored.dtype, stored.channels, matching, extension)
    return Writer(
        path,
        suffix,
        stored,
        lambda temporary: NiftiSink(
            temporary, first_bytes, stored.dtype, geometry, gz=suffix == ".nii.gz"
        ),
    )
