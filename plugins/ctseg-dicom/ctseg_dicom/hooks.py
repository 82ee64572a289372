"""The plugins that this package registers with ctseg."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctseg
from ctseg.specs import (
    DataSet,
    FormatSpec,
    ReaderSpec,
    VolumeSource,
    VolumeWriter,
    frozen,
)
from ctseg.volume.header import VolumeHeader, header_writer
from ctseg_dicom.sniff import SEGMENTATION, STRUCTURE_SET, object_in

_NAMES = "names for the values 1, 2, ..., e.g. 'Liver|Hepar,GTV*'; all by default"
_SERIES = "the scan it belongs to: a folder or file; searched around it by default"
_OVERLAPS = "refuse (default), last (keeps the later one) or channels (one each)"
_MISSING = "refuse (default) or empty, for names that the file lacks"


def _is_seg(path: Path) -> bool:
    return object_in(path, SEGMENTATION) is not None


def _is_structure_set(path: Path) -> bool:
    return object_in(path, STRUCTURE_SET) is not None


def _open_seg(path: Path, **options: Any) -> VolumeSource:
    from ctseg_dicom.seg_read import open_dicom_seg

    return open_dicom_seg(path, **options)


def _open_structure_set(path: Path, **options: Any) -> VolumeSource:
    from ctseg_dicom.rtstruct import open_rtstruct

    return open_rtstruct(path, **options)


def _write_seg(path: Path, header: VolumeHeader, **options: Any) -> VolumeWriter:
    from ctseg_dicom.seg_write import write_dicom_seg

    return write_dicom_seg(path, header, **options)


def _write_structure_set(path: Path, header: VolumeHeader, **options: Any) -> VolumeWriter:
    from ctseg_dicom.rt_write import write_rtstruct

    return write_rtstruct(path, header, **options)


def _is_studies(path: Path) -> bool:
    from ctseg_dicom.studies import recognise

    return recognise(path)


def _studies(path: Path, **options: Any) -> DataSet:
    from ctseg_dicom.studies import cases

    return cases(path, **options)


@ctseg.hookimpl
def ctseg_readers() -> Sequence[ReaderSpec]:
    """Folders of DICOM studies."""
    return [
        ReaderSpec(
            name="dicom_studies",
            recognise=_is_studies,
            cases=_studies,
            summary="a folder of DICOM studies: a scan in each, and a SEG or RTSTRUCT drawn on it",
            options=frozen(
                {
                    "labels": "label names with patterns of regions: 'tumour=GTV*|Tumor,liver=Liver'",
                    "image": "modality of the scan, or a pattern of its series' description",
                    "label": "SEG, RTSTRUCT, or a pattern of the object's description",
                    "ignore": "label value of unlabelled voxels, none by default",
                    "missing": "refuse (default) or empty, for studies that lack a label's regions",
                    "overlaps": "refuse (default) or last, which keeps the later label",
                }
            ),
        )
    ]


@ctseg.hookimpl
def ctseg_formats() -> Sequence[FormatSpec]:
    """DICOM SEG and RT structure sets."""
    return [
        FormatSpec(
            name="dicom_seg",
            suffixes=(".seg.dcm",),
            recognise=_is_seg,
            open=_open_seg,
            writer=header_writer(_write_seg),
            summary="DICOM segmentations (SEG), on the grid of the series they refer to",
            options=frozen(
                {
                    "segments": _NAMES,
                    "series": _SERIES,
                    "grid": "auto (default: that of the series if it is found), series or own",
                    "overlaps": _OVERLAPS,
                    "missing": _MISSING,
                    "threshold": "fraction from which on a voxel of a FRACTIONAL one counts, 0.5",
                }
            ),
            writer_options=frozen({"algorithm": "name of the model, stored with each segment"}),
            needs_reference=True,
        ),
        FormatSpec(
            name="rtstruct",
            suffixes=(".rt.dcm",),
            recognise=_is_structure_set,
            open=_open_structure_set,
            writer=header_writer(_write_structure_set),
            summary="DICOM RT structure sets, their contours filled on the grid of their series",
            options=frozen(
                {
                    "roi": _NAMES,
                    "series": _SERIES,
                    "overlaps": _OVERLAPS,
                    "missing": _MISSING,
                    "between": "interpolate (default) slices between two contours, or none",
                }
            ),
            writer_options=frozen({"algorithm": "name of the model, stored with the set"}),
            needs_reference=True,
        ),
    ]
