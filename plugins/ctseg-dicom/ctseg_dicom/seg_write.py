"""Writing predictions as DICOM SEG, with references to the images of their scan."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from highdicom.uid import UID
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

import ctseg
from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label
from ctseg.task import PALETTE
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.header import VolumeHeader
from ctseg_dicom.codes import cielab_of, concepts, value_text
from ctseg_dicom.files import dicom
from ctseg_dicom.grid_note import store_grid
from ctseg_dicom.images import HINT, Images, images_under

SUFFIXES = (".seg.dcm",)


def write_dicom_seg(path: Path, header: VolumeHeader, *, algorithm: str | None = None) -> Writer:
    """A writer of one SEG file, which is composed in memory once the last slice has arrived.

    Label maps [Z, Y, X] become a BINARY SEG with one segment per label; channels [C, Z, Y, X] of 0 and 1 a BINARY one
    with one segment per channel, which may overlap; channels of probabilities a FRACTIONAL one in steps of 1/255.

    Args:
        path: file name ending in `.seg.dcm`.
        header: its slices are images of the series; its type is integer, or float for probabilities; its labels name
            the segments, for channels in their order; its reference is the DICOM series that was segmented.
        algorithm: name of the model, `ctseg` by default.

    Raises:
        BadInput: there is no series to refer to, or a SEG cannot store the voxels.
        GeometryMismatch: a slice of the grid is not an image of the series.
        FileProblem: the images cannot be used, or the file cannot be written.
    """
    stored = check_dtype(
        header.dtype,
        ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float32", "float64"),
        format_name="DICOM SEG",
    )
    if stored.kind == "f" and header.channels is None:
        raise BadInput(
            f"{path}: a DICOM SEG holds labels or a probability for each label, not one volume of {stored}."
        )
    images = images_under(path, header.geometry, header.reference)
    header, algorithm = replace(header, dtype=stored), algorithm or "ctseg"
    _try(path, images, header.channels, header.labels, algorithm)
    return Writer(
        path,
        SUFFIXES[0],
        header,
        lambda temporary: _SegSink(temporary, path, images, header, algorithm),
    )


class _SegSink:
    """Collects slabs, and composes the object from all of them."""

    def __init__(
        self,
        temporary: Path,
        path: Path,
        images: Images,
        header: VolumeHeader,
        algorithm: str,
    ) -> None:
        self._temporary, self._path = temporary, path
        self._images = images
        self._geometry = geometry = header.geometry
        self._channels = channels = header.channels
        labels = header.labels
        self._labels = [label for label in labels if channels is not None or label.value != 0]
        self._algorithm = algorithm
        shape = (images.count, *geometry.shape_zyx[1:], *(() if channels is None else (channels,)))
        fraction = header.dtype.kind == "f"
        self._voxels: NDArray[Any] = np.zeros(shape, np.float32 if fraction else np.uint16)
        if channels is not None and not fraction:
            self._voxels = self._voxels.astype(np.uint8)
        temporary.touch()  # raises now if the folder cannot be written

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        lowest, highest = slab_czyx.min(), slab_czyx.max()
        limit = 65535 if self._channels is None else 1
        if not (lowest >= 0 and highest <= limit):
            raise BadInput(
                f"{self._path}: values from {lowest} to {highest}; a DICOM SEG holds "
                f"{'labels from 0 to 65535' if self._channels is None else 'channels from 0 to 1'}."
            )
        stop = start + slab_czyx.shape[1]
        part = slab_czyx[0] if self._channels is None else np.moveaxis(slab_czyx, 0, -1)
        self._voxels[self._images.frame_of[start:stop]] = part

    def finish(self) -> None:
        names = self._names()
        voxels = self._voxels if self._channels is not None else _numbered(self._voxels, names)
        segmentation = _object(self._path, self._images.headers, voxels, names, self._algorithm)
        store_grid(segmentation, self._geometry, self._images.places_xyz)
        with dicom(self._path):
            segmentation.save_as(self._temporary)

    def _names(self) -> list[Label]:
        """The labels of the segments; values or channels without a label get a generic name."""
        if self._channels is not None:
            names = self._labels if len(self._labels) == self._channels else []
            return names or [Label(f"channel {n}", (n,), n) for n in range(1, self._channels + 1)]
        known = {label.value for label in self._labels}
        values = np.flatnonzero(np.bincount(self._voxels.ravel())).tolist()
        others = [Label(f"label {v}", (v,), v) for v in values if v and v not in known]
        labels = [*self._labels, *others]
        return labels or [Label("label 1", (1,), 1)]  # DICOM requires at least one segment

    def discard(self) -> None:
        self._voxels = np.zeros(0)


def _try(
    path: Path, images: Images, channels: int | None, labels: Sequence[Label], algorithm: str
) -> None:
    """Compose an object of one slice, or of one multi-frame file, without voxels, so that missing elements raise early.

    Raises:
        BadInput: the images lack elements that a SEG copies from them.
    """
    headers = images.headers[:1]
    depth = images.count if len(images.headers) < images.count else 1
    voxels = np.zeros((depth, int(headers[0].Rows), int(headers[0].Columns)), np.uint8)
    voxels[0, 0, 0] = 1
    name = next((label for label in labels if channels is not None or label.value != 0), None)
    _object(path, headers, voxels, [name or Label("label 1", (1,), 1)], algorithm)


def _object(
    path: Path,
    headers: Sequence[pydicom.Dataset],
    voxels: NDArray[Any],
    labels: Sequence[Label],
    algorithm: str,
) -> Segmentation:
    """Compose a SEG in memory."""
    series_number = int(headers[0].get("SeriesNumber") or 0)
    try:
        with dicom(path), _quiet():
            return Segmentation(
                source_images=headers,
                pixel_array=voxels,
                segmentation_type="FRACTIONAL" if voxels.dtype.kind == "f" else "BINARY",
                segment_descriptions=_segments(labels, algorithm),
                series_instance_uid=UID(),
                series_number=1000 + series_number % 9000,
                sop_instance_uid=UID(),
                instance_number=1,
                manufacturer="ctseg",
                manufacturer_model_name="ctseg",
                software_versions=ctseg.__version__,
                device_serial_number="0",
                content_label="SEGMENTATION",
                content_description=algorithm[:64],
                series_description=f"Segmentation {algorithm}"[:64],
                specific_character_set="ISO_IR 192",  # names of labels in any script
            )
    except Exception as error:  # highdicom raises errors of any kind for odd values
        if isinstance(error, MemoryError):
            raise
        cause = error.__cause__ if isinstance(error, FileProblem) and error.__cause__ else error
        reason = (
            f"no {cause}" if isinstance(cause, KeyError) else str(cause) or type(cause).__name__
        )
        raise BadInput(
            f"{path}: no DICOM SEG can refer to the images of this series: {reason}", hint=HINT
        ) from error


def _segments(labels: Sequence[Label], algorithm: str) -> list[SegmentDescription]:
    method = AlgorithmIdentificationSequence(
        name=algorithm[:64], family=codes.DCM.ArtificialIntelligence, version=ctseg.__version__
    )
    segments = []
    for number, label in enumerate(labels, start=1):
        category, kind = concepts(label.name)
        segment = SegmentDescription(
            segment_number=number,
            segment_label=label.name[:64],
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=method,
            display_color=cielab_of(label.colour or PALETTE[(number - 1) % len(PALETTE)]),
        )
        segment.SegmentDescription = value_text(label.value)
        segments.append(segment)
    return segments


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about scans without labelled voxels and about odd values copied from images."""
    logger = logging.getLogger("highdicom")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _numbered(values: NDArray[Any], labels: Sequence[Label]) -> NDArray[np.uint16]:
    """Convert label values to segment numbers 1, 2, ..."""
    table = np.zeros(65536, np.uint16)
    for number, label in enumerate(labels, start=1):
        table[label.value] = number
    numbered: NDArray[np.uint16] = table[values]
    return numbered
