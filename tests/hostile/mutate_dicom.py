"""Small DICOM files, and damaged copies of them: bytes, lengths and elements changed at random, by seed."""

from __future__ import annotations

import importlib.util
import io
import random
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

_spec = importlib.util.spec_from_file_location(
    "dicom_files", Path(__file__).parents[1] / "volume" / "dicom_files.py"
)
assert _spec is not None and _spec.loader is not None
files = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(files)
BASE = files.BASE
SYNTAXES = (
    BASE,
    f"{BASE}.1",
    f"{BASE}.2",
    f"{BASE}.1.99",
    f"{BASE}.5",
    f"{BASE}.4.90",
    f"{BASE}.4.80",
    f"{BASE}.4.70",
)
DEPTH = 3
UIDS = tuple(generate_uid(entropy_srcs=[str(number)]) for number in range(2))
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    255,
    65535,
    2**31 - 1,
    2**32 - 1,
    1e-30,
    1e30,
    0.5,
    float("nan"),
    float("inf"),
)
LENGTHS = (0, 1, 2, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)


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


def mutants(content: bytes, seed: int) -> Iterator[bytes]:
    """Damaged copies of a file, without end."""
    rng = random.Random(seed)
    ways: tuple[Callable[[bytes, random.Random], bytes], ...]
    ways = (_bits, _bits, _length, _piece, _cut, _element, _element, _element)
    while True:
        out = content
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            out = rng.choice(ways)(out, rng)
        yield out


def _bits(content: bytes, rng: random.Random) -> bytes:
    out = bytearray(content)
    head = rng.random() < 0.7
    for _ in range(rng.choice((1, 2, 8))):
        at = (
            rng.randrange(132, min(len(out), 1500))
            if head and len(out) > 140
            else rng.randrange(len(out) or 1)
        )
        if out:
            out[at] = rng.choice((0, 255, rng.randrange(256), out[at] ^ (1 << rng.randrange(8))))
    return bytes(out)


def _length(content: bytes, rng: random.Random) -> bytes:
    """A number of two or four bytes somewhere, as a length would be."""
    if len(content) < 140:
        return content
    out = bytearray(content)
    at = rng.randrange(66, min(len(out) // 2, 1500)) * 2
    at = min(at, len(out) - 4)
    if rng.random() < 0.5:
        struct.pack_into("<I", out, at, rng.choice(LENGTHS))
    else:
        struct.pack_into("<H", out, at, rng.choice(LENGTHS) & 0xFFFF)
    return bytes(out)


def _piece(content: bytes, rng: random.Random) -> bytes:
    """A piece that is lost, or there twice."""
    at, count = rng.randrange(len(content) or 1), rng.choice((1, 2, 4, 8, 64))
    if rng.random() < 0.5:
        return content[:at] + content[at + count :]
    return content[:at] + content[at : at + count] * 2 + content[at + count :]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) or 1)]


def _element(content: bytes, rng: random.Random) -> bytes:
    """One element, at any depth, with another value, without one, or gone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(io.BytesIO(content), force=True)
            holders = [data, *(item for item in _items(data))]
            holder = rng.choice(holders)
            tags = [element.tag for element in holder if element.tag != 0x7FE00010]
            tag = rng.choice(tags)
            element = holder[tag]
            if rng.random() < 0.2:
                del holder[tag]
            elif element.VR == "SQ":
                items = list(element.value)
                element.value = rng.choice((items[:-1], items * 2, items[::-1], []))
            else:
                element.value = _other(element, rng)
            out = io.BytesIO()
            data.save_as(out)
            return out.getvalue()
    except Exception:  # a copy that is damaged already, or a value that pydicom does not write
        return _bits(content, rng)


def _items(data: Dataset) -> Iterator[Dataset]:
    for element in data:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _other(element: Any, rng: random.Random) -> Any:
    many = element.value if isinstance(element.value, list | pydicom.multival.MultiValue) else None
    if element.VR in ("DS", "IS", "US", "UL", "FD", "FL", "SS"):
        number = rng.choice(NUMBERS)
        if element.VR in ("US", "UL", "SS", "IS"):
            number = int(number) & 0x7FFF if np.isfinite(number) else 7
        if many is None:
            return number
        values = list(many)
        values[rng.randrange(len(values))] = number
        return rng.choice((values, values[:-1], values * 2))
    if isinstance(element.value, bytes):
        return rng.choice((b"", element.value[:-2], element.value * 2, b"\xff" * 8))
    return rng.choice(
        ("", "1.2.3", "x" * 100, "\\\\", "\0", "\u00e9", "CT", "SEG", "BINARY", "1\\2")
    )
