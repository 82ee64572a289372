"""DICOM objects made for the tests with pydicom and highdicom, and the real ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ctseg.volume.geometry import Geometry

MISSING = (
    "AccessionNumber", "PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyDate", "StudyID", "StudyTime",
)  # fmt: skip
TURN = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; the test is skipped where it is absent."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("CTSEG_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real scans at {folder} (set CTSEG_TEST_DATA)")
    return folder


@pytest.fixture
def geometry() -> Geometry:
    """An oblique, anisotropic grid."""
    return Geometry((6, 16, 20), (0.8, 0.7, 2.5), (-30.0, 12.5, 100.0), TURN)


def write_series(
    folder: Path, geometry: Geometry, heights: Sequence[float] | None = None, **tags: Any
) -> list[Dataset]:
    """A CT series on a grid, in files whose names are not in the order of the slices.

    Args:
        heights: positions of the slices along the normal, in slices; by default 0, 1, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    uids = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
    }
    depth, rows, columns = geometry.shape_zyx
    made = []
    for k in range(depth):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        one.SOPInstanceUID = generate_uid()
        one.Modality = "CT"
        one.PatientID, one.PatientName = "P1", "Test^Patient"
        one.SeriesNumber, one.InstanceNumber = 3, k + 1
        one.Rows, one.Columns = rows, columns
        one.PixelSpacing = [geometry.spacing_xyz[1], geometry.spacing_xyz[0]]
        one.SliceThickness = geometry.spacing_xyz[2]
        one.ImageOrientationPatient = [*geometry.matrix[:, 0], *geometry.matrix[:, 1]]
        height = k if heights is None else heights[k]
        one.ImagePositionPatient = [round(float(v), 6) for v in geometry.position((0, 0, height))]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleIntercept, one.RescaleSlope = "0", "1"
        for keyword, value in {**uids, **tags}.items():
            setattr(one, keyword, value)
        one.PixelData = np.full((rows, columns), k, np.int16).tobytes()
        one.save_as(folder / f"{(k * 5) % 7}{k}.dcm", enforce_file_format=True)
        for keyword in MISSING:  # what anonymised files lack, and highdicom wants
            setattr(one, keyword, "")
        made.append(one)
    return made


@pytest.fixture
def series(tmp_path: Path, geometry: Geometry) -> list[Dataset]:
    """A CT series in the folder `study/ct`."""
    return write_series(tmp_path / "study" / "ct", geometry)


@pytest.fixture
def label(geometry: Geometry) -> NDArray[np.uint8]:
    """A label map of three labels on the grid; the first and the last slice are empty."""
    array = np.zeros(geometry.shape_zyx, np.uint8)
    array[1:4, 2:9, 3:12] = 1
    array[2:5, 10:14, 4:9] = 2
    array[3, 4:6, 14:19] = 3
    return array


def write_seg(
    path: Path,
    images: Sequence[Dataset],
    array: NDArray[Any],
    kind: str = "BINARY",
    names: Sequence[str] = ("Liver", "Kidney", "GTV 1"),
    **options: Any,
) -> Segmentation:
    """A SEG that highdicom makes."""
    segments = [
        SegmentDescription(
            number,
            name,
            codes.SCT.AnatomicalStructure,
            codes.SCT.Organ,
            "MANUAL",
        )
        for number, name in enumerate(names, start=1)
    ]
    made = Segmentation(
        images, array, kind, segments, highdicom.UID(), 1, highdicom.UID(), 1, "m", "m", "1", "1",
        **options,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)
    return made


Rois = Mapping[str, Sequence[NDArray[np.float64]]]


@pytest.fixture
def write_rtstruct(
    tmp_path: Path, geometry: Geometry, series: list[Dataset]
) -> Callable[..., Path]:
    """Writes a structure set whose contours are given in voxels x, y, z of the grid."""

    def write(rois: Rois, name: str = "study/rt/rt.dcm", kind: str = "CLOSED_PLANAR") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
        data.SOPInstanceUID = generate_uid()
        data.Modality = "RTSTRUCT"
        data.SeriesInstanceUID = generate_uid()
        scan, study, frame = Dataset(), Dataset(), Dataset()
        scan.SeriesInstanceUID = series[0].SeriesInstanceUID
        study.RTReferencedSeriesSequence = [scan]
        frame.FrameOfReferenceUID = series[0].FrameOfReferenceUID
        frame.RTReferencedStudySequence = [study]
        data.ReferencedFrameOfReferenceSequence = [frame]
        data.StructureSetROISequence, data.ROIContourSequence = [], []
        for number, (roi, polygons) in enumerate(rois.items(), start=1):
            about, drawn = Dataset(), Dataset()
            about.ROINumber, about.ROIName = number, roi
            about.ReferencedFrameOfReferenceUID = series[0].FrameOfReferenceUID
            drawn.ReferencedROINumber = number
            drawn.ROIDisplayColor = [255, 10 * number, 0]
            drawn.ContourSequence = []
            for polygon in polygons:
                contour = Dataset()
                contour.ContourGeometricType = kind
                points = geometry.position(polygon)
                contour.NumberOfContourPoints = len(points)
                contour.ContourData = [f"{v:.6f}" for v in points.ravel()]
                drawn.ContourSequence.append(contour)
            data.StructureSetROISequence.append(about)
            data.ROIContourSequence.append(drawn)
        data.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def make_series() -> Callable[..., list[Dataset]]:
    return write_series


@pytest.fixture
def make_seg() -> Callable[..., Segmentation]:
    return write_seg
