"""The built-in volume formats."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ctseg.hookspecs import hookimpl
from ctseg.specs import FormatSpec, OpenWriter, VolumeSource, VolumeWriter, frozen
from ctseg.volume.formats import paths, pictures
from ctseg.volume.formats.dicom.recognise import is_dicom
from ctseg.volume.header import VolumeHeader, header_writer

_LIKE = "scan of the same shape whose grid is used where the file has no voxel size"
_OUTSIDE = "'yes' also reads files outside the folder that this one names"
_SPACING = "voxel size x y z in mm, or with a unit: '0.7 0.7 2.5', '5um'"

_HEADER = {
    "straighten": "'yes' resamples a sheared grid onto one that is not; 'nearest' does so for label maps",
    "data_folder": "folder in which the data file of a header may lie, besides the folder of the header",
}


def _named(suffixes: tuple[str, ...]) -> Callable[[Path], bool]:
    return lambda path: paths.suffix_of(path, suffixes) is not None


def _open(name: str, module: str | None = None) -> Callable[..., VolumeSource]:
    """`open_NAME` of the format's module, which is imported on first use; the module's default name is the format's."""

    def open_(path: Path, **options: Any) -> VolumeSource:
        file = importlib.import_module(f"ctseg.volume.formats.{module or name}")
        return cast(VolumeSource, getattr(file, f"open_{name}")(path, **options))

    return open_


def _parts(module: str) -> Callable[[Path], Mapping[str, Mapping[str, Any]]]:
    def parts(path: Path) -> Mapping[str, Mapping[str, Any]]:
        file = importlib.import_module(f"ctseg.volume.formats.{module}")
        return cast(Mapping[str, Mapping[str, Any]], file.parts(path))

    return parts


def _writer(name: str, module: str | None = None) -> OpenWriter:
    """`write_NAME` of the format's module, likewise."""

    def write(path: Path, header: VolumeHeader, **options: Any) -> VolumeWriter:
        file = importlib.import_module(f"ctseg.volume.formats.{module or name}")
        return cast(VolumeWriter, getattr(file, f"write_{name}")(path, header, **options))

    return header_writer(write)


@hookimpl
def ctseg_formats() -> Sequence[FormatSpec]:
    """NIfTI, NRRD, MetaImage, DICOM series, TIFF stacks, HDF5 and folders of slices."""
    return [
        FormatSpec(
            name="nifti",
            suffixes=(*paths.NIFTI, *paths.NIFTI_HEADERS, *paths.NIFTI_VOXELS),
            recognise=paths.is_nifti,
            open=_open("nifti", "nifti.open"),
            writer=_writer("nifti", "nifti.open"),
            summary="NIfTI-1 and NIfTI-2, compressed or not; pairs of .hdr and .img for reading",
            options=frozen({"channels": "'last' reads the fourth axis as channels", **_HEADER}),
        ),
        FormatSpec(
            name="nrrd",
            suffixes=paths.NRRD,
            recognise=_named(paths.NRRD),
            open=_open("nrrd", "nrrd.open"),
            writer=_writer("nrrd", "nrrd.open"),
            options=frozen(_HEADER),
            summary="NRRD; label maps open in 3D Slicer with their names and colours",
        ),
        FormatSpec(
            name="metaimage",
            suffixes=paths.METAIMAGE,
            recognise=_named(paths.METAIMAGE),
            open=_open("metaimage", "metaimage.open"),
            writer=_writer("metaimage", "metaimage.open"),
            options=frozen(_HEADER),
            summary="MetaImage (ITK)",
            lacks=frozenset({"label names"}),
        ),
        FormatSpec(
            name="tiff",
            suffixes=paths.TIFF,
            recognise=_named(paths.TIFF),
            open=_open("tiff", "tiff.open"),
            writer=_writer("tiff", "tiff.open"),
            summary="TIFF stacks with the voxel size of ImageJ or OME; no origin, no direction",
            options=frozen({"spacing": _SPACING, "like": _LIKE, "outside": _OUTSIDE}),
            lacks=frozenset({"origin", "direction", "label names"}),
        ),
        FormatSpec(
            name="hdf5",
            suffixes=paths.HDF5,
            recognise=_named(paths.HDF5),
            open=_open("hdf5", "hdf5.open"),
            writer=_writer("hdf5", "hdf5.open"),
            summary="HDF5 datasets, DHW or CDHW, geometry as attributes",
            options=frozen(
                {
                    "dataset": "name within the file; /raw, or the only volume, by default",
                    "geometry": "dataset that lends its grid to one without; /raw by default",
                    "outside": _OUTSIDE,
                }
            ),
            writer_options=frozen(
                {"dataset": "name within the file: /label for label maps, else /raw by default"}
            ),
            parts=_parts("hdf5.open"),
        ),
        FormatSpec(
            name="dicom",
            suffixes=paths.DICOM,
            recognise=is_dicom,
            open=_open("dicom", "dicom.open"),
            summary="DICOM image series, as a folder or one of its files",
            options=frozen(
                {
                    "series": "SeriesInstanceUID, or its last digits, where there are several",
                    "straighten": "'yes' resamples uneven slices or a tilted gantry onto an even grid",
                }
            ),
            parts=_parts("dicom.open"),
        ),
        FormatSpec(
            name="slices",
            suffixes=(),
            recognise=pictures.is_slices,
            open=_open("slices", "slice_folders"),
            writer=_writer("slices", "slice_folders"),
            lacks=frozenset({"origin", "direction", "channels", "label names"}),
            summary="a folder of grey TIFF or PNG pictures, one per slice, in the order of their numbers",
            options=frozen(
                {
                    "spacing": _SPACING,
                    "gaps": "'yes' accepts names whose numbers have gaps",
                    "like": _LIKE,
                }
            ),
        ),
    ]
