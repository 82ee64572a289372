"""Small DICOM objects: series, enhanced images, segmentations and a structure set."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tests.hostile.mutate_dicom import WAYS
from tests.hostile.target import Seed, look
from tests.volume.formats.dicom import dicom_files as files

BASE = files.BASE
SYNTAXES = (
    BASE,
    *(f"{BASE}{end}" for end in (".1", ".2", ".1.99", ".5", ".4.90", ".4.80", ".4.70")),
)
DEPTH = 3
UIDS = tuple(generate_uid(entropy_srcs=[str(number)]) for number in range(2))


def planes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096, (DEPTH, 9, 10)).astype(np.uint16)


def make_series(folder: Path, syntax: str = f"{BASE}.1") -> Path:
    """A CT of three slices."""
    for index, plane in enumerate(planes()):
        out = files.dataset(
            plane, position=(0, 0, 3.0 * index), instance=index + 1, rescale=(1, -1024)
        )
        files.save(out, folder / f"{index}.dcm", plane, syntax)
    return folder


def make_enhanced(folder: Path, syntax: str) -> Path:
    out = files.enhanced(planes(), np.arange(DEPTH), rescales=[(1, -1024)] * DEPTH)
    files.save(out, folder / "e.dcm", planes(), syntax, 2)
    return folder


def make_seg(folder: Path, kind: str = "BINARY") -> Path:
    """A SEG on the series in the folder beside."""
    from highdicom.color import CIELabColor
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    images = [pydicom.dcmread(file) for file in sorted((folder.parent / "ct").iterdir())]
    for one in images:
        for keyword in ("AccessionNumber", "PatientBirthDate", "PatientSex", "StudyDate", "StudyID", "StudyTime",
                        "PatientID", "PatientName", "ReferringPhysicianName"):  # fmt: skip
            setattr(one, keyword, "")
    array = np.zeros((DEPTH, 9, 10), np.uint8)
    array[0, 2:5, 2:6], array[1:, 5:8, 4:9] = 1, 2
    segments = [
        SegmentDescription(n, f"s{n}", codes.SCT.AnatomicalStructure, codes.SCT.Organ, "MANUAL",
                           display_color=CIELabColor(50, 20, 20)) for n in (1, 2)
    ]  # fmt: skip
    values: Any = (
        array if kind != "FRACTIONAL" else np.stack([array == 1, array == 2], -1) * np.float32(0.7)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Segmentation(
            images, values, kind, segments, UIDS[0], 1, UIDS[1], 1, "m", "m", "1", "1"
        )
        folder.mkdir(parents=True, exist_ok=True)
        made.save_as(folder / "a.seg.dcm")
    return folder


def make_structures(folder: Path) -> Path:
    """A structure set on the series in the folder beside."""
    image = pydicom.dcmread(folder.parent / "ct" / "0.dcm")
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", UIDS[0]
    data.Modality, data.SeriesInstanceUID = "RTSTRUCT", UIDS[1]
    scan, study, frame = Dataset(), Dataset(), Dataset()
    scan.SeriesInstanceUID = image.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [scan]
    frame.FrameOfReferenceUID = image.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    data.ReferencedFrameOfReferenceSequence = [frame]
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    for number in (1, 2):
        about, drawn = Dataset(), Dataset()
        about.ROINumber, about.ROIName = number, f"roi {number}"
        about.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
        drawn.ReferencedROINumber, drawn.ROIDisplayColor, drawn.ContourSequence = (
            number,
            [255, 0, 0],
            [],
        )
        for z in (0, 3):
            for side in (2.4, 1.2):
                contour = Dataset()
                contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
                x = 1.5 + 3 * (number - 1)
                contour.ContourData = [
                    x,
                    2,
                    z,
                    x + side,
                    2,
                    z,
                    x + side,
                    2 + side,
                    z,
                    x,
                    2 + side,
                    z,
                ]
                drawn.ContourSequence.append(contour)
        data.StructureSetROISequence.append(about)
        data.ROIContourSequence.append(drawn)
    folder.mkdir(parents=True, exist_ok=True)
    data.save_as(folder / "rt.dcm", enforce_file_format=True)
    return folder


def make_all(root: Path) -> dict[str, tuple[Path, Path]]:
    """Every kind of object: what is opened, and the file that is damaged."""
    out = {}
    for number, syntax in enumerate(SYNTAXES):
        folder = make_series(root / f"series{number}" / "ct", syntax)
        out[f"series {syntax}"] = folder, folder / "1.dcm"
    for number, syntax in enumerate((f"{BASE}.1", f"{BASE}.4.90")):
        folder = make_enhanced(root / f"enhanced{number}" / "ct", syntax)
        out[f"enhanced {syntax}"] = folder / "e.dcm", folder / "e.dcm"
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        make_series(root / kind / "ct")
        folder = make_seg(root / kind / "seg", kind)
        out[kind] = folder / "a.seg.dcm", folder / "a.seg.dcm"
    make_series(root / "rt" / "ct")
    folder = make_structures(root / "rt" / "rt")
    out["structures"] = folder / "rt.dcm", folder / "rt.dcm"
    return out


def dicom(folder: Path) -> list[Seed]:
    return _seeds(folder, ("series ", "enhanced "))


def dicom_seg(folder: Path) -> list[Seed]:
    return _seeds(folder, ("BINARY", "FRACTIONAL", "LABELMAP"))


def rtstruct(folder: Path) -> list[Seed]:
    return _seeds(folder, ("structures",))


def _seeds(folder: Path, names: tuple[str, ...]) -> list[Seed]:
    made = {name: value for name, value in make_all(folder).items() if name.startswith(names)}
    return [Seed(name, path, [file], WAYS, look) for name, (path, file) in made.items()]
