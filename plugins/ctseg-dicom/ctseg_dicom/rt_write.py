"""Writing predictions as RT structure sets: contours on the images of their scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

import ctseg
from ctseg.errors import BadInput
from ctseg.specs import Label
from ctseg.task import PALETTE
from ctseg.volume.formats.writer import Writer, check_dtype
from ctseg.volume.header import VolumeHeader
from ctseg_dicom.codes import MANUFACTURER, value_text
from ctseg_dicom.files import dicom
from ctseg_dicom.images import Images, images_under
from ctseg_dicom.outline import outlines
from ctseg_dicom.sniff import STRUCTURE_SET

SUFFIXES = (".rt.dcm",)
KIND = "an RT structure set"
_COPIED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, which structure sets name for their study although it is retired."""


def write_rtstruct(path: Path, header: VolumeHeader, *, algorithm: str | None = None) -> Writer:
    """A writer of one structure set; contours are found as slices arrive, and only they are kept.

    Label maps [Z, Y, X] become one region of interest for each label; channels [C, Z, Y, X] of 0 and 1 one for each
    channel, which may overlap.

    Args:
        path: file name ending in `.rt.dcm`.
        header: its slices are images of the series; its labels name the regions, for channels in their order; its
            reference is the DICOM series that was segmented.
        algorithm: name of the model, `ctseg` by default.

    Raises:
        BadInput: there is no series to refer to, or the voxels are no labels.
        GeometryMismatch: a slice of the grid is not an image of the series.
        FileProblem: the images cannot be used, or the file cannot be written.
    """
    known = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")
    stored = check_dtype(header.dtype, known, format_name="An RT structure set")
    images = images_under(path, header.geometry, header.reference, KIND)
    header, algorithm = replace(header, dtype=stored), algorithm or "ctseg"
    return Writer(
        path, SUFFIXES[0], header,
        lambda temporary: _StructureSink(temporary, path, images, header, algorithm),
    )  # fmt: skip


class _StructureSink:
    """Collects contours, and composes the object from all of them."""

    def __init__(
        self, temporary: Path, path: Path, images: Images, header: VolumeHeader, algorithm: str
    ) -> None:
        self._temporary, self._path, self._images = temporary, path, images
        self._header, self._algorithm = header, algorithm
        self._contours: dict[int, list[tuple[int, NDArray[np.float64]]]] = {}
        """For each label value, or number of the channel from 1, the slice and the points of each contour."""
        temporary.touch()  # raises now if the folder cannot be written

    def put(self, start: int, slab_czyx: NDArray[Any]) -> None:
        if slab_czyx.min() < 0:
            raise BadInput(f"{self._path}: values below 0 are no labels.")
        for channel, slab in enumerate(slab_czyx, start=1):
            for k, plane in enumerate(slab, start=start):
                for value, points_xy in outlines(plane):
                    key = value if self._header.channels is None else channel
                    points = np.column_stack([points_xy, np.full(len(points_xy), k)])
                    self._contours.setdefault(key, []).append((k, points))

    def finish(self) -> None:
        with dicom(self._path):
            data = _structure_set(self._images.headers[0], self._algorithm)
            data.ReferencedFrameOfReferenceSequence = [_referenced(self._images)]
            data.StructureSetROISequence, data.ROIContourSequence = [], []
            data.RTROIObservationsSequence = []
            for number, (key, label) in enumerate(self._regions(), start=1):
                colour = label.colour or PALETTE[(number - 1) % len(PALETTE)]
                self._add(data, number, key, label, colour)
            data.save_as(self._temporary, enforce_file_format=True)

    def _regions(self) -> Sequence[tuple[int, Label]]:
        """The key of each region's contours, and its label; values without a label get a generic name."""
        labels = list(self._header.labels)
        if self._header.channels is not None:
            named = labels if len(labels) == self._header.channels else []
            numbers = range(1, self._header.channels + 1)
            names = named or [Label(f"channel {n}", (n,), n) for n in numbers]
            return list(zip(numbers, names, strict=True))
        known = {label.value: label for label in labels if label.value != 0}
        known |= {v: Label(f"label {v}", (v,), v) for v in sorted(self._contours) if v not in known}
        return list(known.items())

    def _add(
        self, data: Dataset, number: int, key: int, label: Label, colour: tuple[int, int, int]
    ) -> None:
        """Add a region of interest with its contours."""
        about, drawn, seen = Dataset(), Dataset(), Dataset()
        about.ROINumber, about.ROIName = number, label.name[:64]
        about.ReferencedFrameOfReferenceUID = data.FrameOfReferenceUID
        about.ROIDescription = value_text(label.value)
        about.ROIGenerationAlgorithm = "AUTOMATIC"
        seen.ObservationNumber = seen.ReferencedROINumber = number
        seen.RTROIInterpretedType = seen.ROIInterpreter = ""
        drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, list(colour)
        contours = []
        geometry, on_images = self._header.geometry, self._images.places_xyz
        for k, points in self._contours.get(key, ()):
            one = Dataset()
            one.ContourImageSequence = [_image(self._images, k)]
            one.ContourGeometricType = "CLOSED_PLANAR"
            one.NumberOfContourPoints = len(points)
            places = geometry.position(points) + on_images[k] - geometry.position((0, 0, k))
            one.ContourData = [f"{value:.4f}" for value in places.ravel().tolist()]
            contours.append(one)
        if contours:
            drawn.ContourSequence = contours
        data.StructureSetROISequence.append(about)
        data.ROIContourSequence.append(drawn)
        data.RTROIObservationsSequence.append(seen)

    def discard(self) -> None:
        self._contours = {}


def _structure_set(image: Dataset, algorithm: str) -> Dataset:
    """A structure set of the patient and study of an image, without regions."""
    data, now = Dataset(), datetime.now().astimezone()
    data.file_meta = FileMetaDataset()
    # explicit VR has 16 bits for the length of ContourData, which holds 2200 points or so
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    data.SpecificCharacterSet = "ISO_IR 192"  # names of labels in any script
    (data.SOPClassUID,) = STRUCTURE_SET
    data.SOPInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    for keyword in _COPIED:
        if keyword in image:
            setattr(data, keyword, image[keyword].value)
    data.FrameOfReferenceUID = image.FrameOfReferenceUID
    data.PositionReferenceIndicator = image.get("PositionReferenceIndicator") or ""
    data.Modality, data.OperatorsName = "RTSTRUCT", ""
    data.SeriesNumber = 1000 + int(image.get("SeriesNumber") or 0) % 9000
    data.InstanceNumber = 1
    data.SeriesDescription = f"Structure set {algorithm}"[:64]
    data.Manufacturer = data.ManufacturerModelName = MANUFACTURER
    data.SoftwareVersions = ctseg.__version__
    data.StructureSetLabel, data.StructureSetName = "ctseg", algorithm[:64]
    data.StructureSetDate = data.InstanceCreationDate = now.strftime("%Y%m%d")
    data.StructureSetTime = data.InstanceCreationTime = now.strftime("%H%M%S")
    data.ApprovalStatus = "UNAPPROVED"
    return data


def _referenced(images: Images) -> Dataset:
    """The frame of reference, with the study, series and images on which contours lie."""
    first = images.headers[0]
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = []
    for header in images.headers:
        series.ContourImageSequence.append(_object(header))
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(images: Images, k: int) -> Dataset:
    """A reference to the image at a slice of the grid."""
    number = images.frame_of[k]
    if len(images.headers) == images.count:
        return _object(images.headers[number])
    one = _object(images.headers[0])
    one.ReferencedFrameNumber = number + 1
    return one


def _object(header: Dataset) -> Dataset:
    one = Dataset()
    one.ReferencedSOPClassUID = header.SOPClassUID
    one.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return one
