"""Predictions as DICOM SEG, with references to the images that they were made of."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from highdicom.uid import UID
from numpy.typing import DTypeLike, NDArray
from pydicom.sr.codedict import codes

import ctseg
from ctseg.errors import BadInput, FileProblem, GeometryMismatch
from ctseg.specs import Label, VolumeSource
from ctseg.task import PALETTE
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.geometry import Geometry
from ctseg_dicom.codes import cielab_of, concepts, value_text
from ctseg_dicom.files import dicom

SUFFIXES = (".seg.dcm",)
_HINT = "Predict from the DICOM series itself, or write .nii.gz or .nrrd, which need no source."
_ON_GRID = 1e-2
"""Share of a voxel by which a slice of the result may miss its image: headers hold few digits."""
_EMPTY_TYPE_2 = (
    "AccessionNumber", "PatientBirthDate", "PatientID", "PatientName", "PatientSex", "ReferringPhysicianName",
    "StudyDate", "StudyID", "StudyTime",
)  # fmt: skip
"""What every image must have, be it empty, and anonymised images sometimes lack."""


def write_dicom_seg(
    path: Path,
    geometry: Geometry,
    dtype: DTypeLike,
    *,
    channels: int | None = None,
    labels: Sequence[Label] = (),
    reference: VolumeSource | None = None,
    algorithm: str | None = None,
) -> Writer:
    """A writer of one SEG file. It is put together in memory when the last slice is there.

    Label maps [Z, Y, X] become a BINARY SEG of one segment a label; channels [C, Z, Y, X] of 0 and 1 a BINARY one of
    one segment a channel, which may overlap; channels of probabilities a FRACTIONAL one in steps of 1/255.

    Args:
        path: ends in `.seg.dcm`.
        geometry: the grid, whose slices are images of the series.
        dtype: integers, or floats for probabilities.
        channels: as for every writer.
        labels: names, values and colours of the segments, for channels in their order.
        reference: the DICOM series that was segmented.
        algorithm: the name of the model, `ctseg` by default.

    Raises:
        BadInput: no series to refer to, or voxels that a SEG cannot hold.
        GeometryMismatch: a slice of the grid is no image of the series.
        FileProblem: the images or the place cannot be used.
    """
    stored = check_dtype(
        dtype,
        ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64", "float32", "float64"),
        format_name="DICOM SEG",
    )
    if stored.kind == "f" and channels is None:
        raise BadInput(
            f"{path}: a DICOM SEG holds labels or a probability for each label, not one volume of {stored}."
        )
    images = _images(path, geometry, reference)
    return Writer(
        path,
        SUFFIXES[0],
        geometry,
        stored,
        channels,
        lambda temporary: _SegSink(
            temporary, path, images, geometry, stored, channels, labels, algorithm or "ctseg"
        ),
    )


def _images(
    path: Path, geometry: Geometry, reference: VolumeSource | None
) -> list[pydicom.Dataset]:
    """The headers of the images under each slice of the grid, in its order."""
    files = [] if reference is None else list(reference.metadata.get("files", []))
    if reference is None or not files:
        what = "none was given" if reference is None else f"{reference.path} is none"
        raise BadInput(
            f"{path}: a DICOM SEG refers to the images of a DICOM series, and {what}.", hint=_HINT
        )
    depth, height, width = geometry.shape_zyx
    inverse = np.linalg.inv(geometry.affine)
    at: dict[int, pydicom.Dataset] = {}
    for name in files:
        with dicom(Path(name)):
            header = pydicom.dcmread(name, stop_before_pixels=True)
            if int(header.get("NumberOfFrames") or 1) > 1:
                raise BadInput(f"{name} holds many frames; a SEG of it is not written.", hint=_HINT)
            position = np.array(header.ImagePositionPatient, np.float64)
            x, y, z = inverse[:3, :3] @ position + inverse[:3, 3]
            cosines = np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3).T
            turned = np.abs(cosines - geometry.matrix[:, :2]).max() > 1e-3
            other = (int(header.Rows), int(header.Columns)) != (height, width)
            k = round(float(z))
            off = max(abs(float(x)), abs(float(y)), abs(float(z) - k))
            if not turned and not other and off <= _ON_GRID and 0 <= k < depth:
                if "FrameOfReferenceUID" not in header:
                    raise BadInput(
                        f"{name} names no frame of reference, to which a SEG must refer.",
                        hint=_HINT,
                    )
                for keyword in _EMPTY_TYPE_2:
                    if keyword not in header:
                        setattr(header, keyword, "")
                at[k] = header
    missing = sorted(set(range(depth)) - set(at))
    if missing:
        raise GeometryMismatch(
            f"{path}: {len(missing)} of {depth} slices, the first of them slice {missing[0]}, are no images of the "
            f"series {reference.path}.",
            hint="A DICOM SEG is written on the grid of its series; resample the result onto it.",
        )
    return [at[k] for k in range(depth)]


class _SegSink:
    """Collects slabs, and makes the object from all of them."""

    def __init__(
        self,
        temporary: Path,
        path: Path,
        images: list[pydicom.Dataset],
        geometry: Geometry,
        dtype: np.dtype[Any],
        channels: int | None,
        labels: Sequence[Label],
        algorithm: str,
    ) -> None:
        self._temporary, self._path = temporary, path
        self._images = images
        self._channels = channels
        self._labels = [label for label in labels if channels is not None or label.value != 0]
        self._algorithm = algorithm
        shape = geometry.shape_zyx if channels is None else (*geometry.shape_zyx, channels)
        fraction = dtype.kind == "f"
        self._voxels: NDArray[Any] = np.zeros(shape, np.float32 if fraction else np.uint16)
        if channels is not None and not fraction:
            self._voxels = self._voxels.astype(np.uint8)
        temporary.touch()  # tells now whether the place can be written

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
        self._voxels[start:stop] = part

    def finish(self) -> None:
        names = self._names()
        voxels = self._voxels if self._channels is not None else _numbered(self._voxels, names)
        first = self._images[0]
        series_number = int(first.get("SeriesNumber") or 0)
        try:
            with dicom(self._path), _quiet():
                made = Segmentation(
                    source_images=self._images,
                    pixel_array=voxels,
                    segmentation_type="FRACTIONAL" if voxels.dtype.kind == "f" else "BINARY",
                    segment_descriptions=self._segments(names),
                    series_instance_uid=UID(),
                    series_number=1000 + series_number % 9000,
                    sop_instance_uid=UID(),
                    instance_number=1,
                    manufacturer="ctseg",
                    manufacturer_model_name="ctseg",
                    software_versions=ctseg.__version__,
                    device_serial_number="0",
                    content_label="SEGMENTATION",
                    content_description=self._algorithm[:64],
                    series_description=f"Segmentation {self._algorithm}"[:64],
                    specific_character_set="ISO_IR 192",  # names of labels in any script
                )
                made.save_as(self._temporary)
        except ValueError as error:  # a `FileProblem` is one too
            said = error.message if isinstance(error, FileProblem) else str(error)
            raise BadInput(f"{self._path} cannot be written as DICOM SEG: {said}") from error

    def _names(self) -> list[Label]:
        """The labels of the segments; values or channels that have none get a plain name."""
        if self._channels is not None:
            given = self._labels if len(self._labels) == self._channels else []
            return given or [Label(f"channel {n}", (n,), n) for n in range(1, self._channels + 1)]
        known = {label.value for label in self._labels}
        found = np.flatnonzero(np.bincount(self._voxels.ravel())).tolist()
        others = [Label(f"label {v}", (v,), v) for v in found if v and v not in known]
        labels = [*self._labels, *others]
        return labels or [Label("label 1", (1,), 1)]  # an object without any segment is not allowed

    def _segments(self, labels: Sequence[Label]) -> list[SegmentDescription]:
        method = AlgorithmIdentificationSequence(
            name=self._algorithm[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=ctseg.__version__,
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

    def discard(self) -> None:
        self._voxels = np.zeros(0)


@contextmanager
def _quiet() -> Iterator[None]:
    """A scan without a voxel of any label, and odd values copied from its images, are no news."""
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
    """Label values as segment numbers 1, 2, ..."""
    table = np.zeros(65536, np.uint16)
    for number, label in enumerate(labels, start=1):
        table[label.value] = number
    numbered: NDArray[np.uint16] = table[values]
    return numbered
