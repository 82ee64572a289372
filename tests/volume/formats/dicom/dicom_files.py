"""DICOM files written with pydicom: what the tests of reading hold ours against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import UID

BASE = "1.2.840.10008.1.2"
ROOT = "1.2.826.0.1.3680043.2.1125"
ENCODERS: dict[str, Any] = {
    f"{BASE}.4.50": lambda a: imagecodecs.jpeg8_encode(a, level=100),
    f"{BASE}.4.70": lambda a: imagecodecs.ljpeg_encode(a, bitspersample=a.dtype.itemsize * 8),
    f"{BASE}.4.80": imagecodecs.jpegls_encode,
    f"{BASE}.4.90": lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="j2k"),
    f"{BASE}.4.201": lambda a: imagecodecs.htj2k_encode(a, reversible=True),
}
UNSIGNED = (f"{BASE}.4.70", f"{BASE}.4.80")
"""Syntaxes whose codestreams know no signs."""


def jpegxl(array: Any) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(array, lossless=True))


def dataset(
    array: Any,
    *,
    bits: int | None = None,
    position: tuple[float, float, float] = (-10.0, 20.0, 30.0),
    cosines: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    spacing_yx: tuple[float, float] = (1.2, 0.8),
    rescale: tuple[float, float] | None = None,
    uid: str = f"{ROOT}.1",
    instance: int = 1,
    **tags: Any,
) -> Dataset:
    """A CT plane [Y, X], or frames [Z, Y, X], with stored values as given."""
    out = Dataset()
    out.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    out.SOPInstanceUID = UID(f"{uid}.{instance}")
    out.StudyInstanceUID, out.SeriesInstanceUID = UID(f"{ROOT}.9"), UID(uid)
    out.FrameOfReferenceUID = UID(f"{ROOT}.8")
    out.Modality, out.InstanceNumber, out.SliceThickness = "CT", instance, 7.5
    out.SeriesDescription = "Thorax"
    if array.ndim == 2:
        out.ImagePositionPatient, out.ImageOrientationPatient = list(position), list(cosines)
        out.PixelSpacing = list(spacing_yx)
    else:
        out.NumberOfFrames = len(array)
    out.Rows, out.Columns = array.shape[-2:]
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.BitsAllocated = array.dtype.itemsize * 8
    out.BitsStored = bits or out.BitsAllocated
    out.HighBit = out.BitsStored - 1
    out.PixelRepresentation = int(array.dtype.kind == "i")
    if rescale is not None:
        out.RescaleSlope, out.RescaleIntercept = rescale
    out.PixelData = array.astype(array.dtype.newbyteorder("<")).tobytes()
    for name, value in tags.items():
        setattr(out, name, value)
    return out


def save(out: Dataset, path: Path, array: Any, syntax: str = f"{BASE}.1", pieces: int = 1) -> Path:
    """Write a data set in a transfer syntax; `pieces` cuts each compressed frame into fragments."""
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = UID(syntax)
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
    if syntax == f"{BASE}.5":
        out.file_meta.TransferSyntaxUID = UID(f"{BASE}.1")
        out.compress(UID(syntax), generate_instance_uid=False)
    elif syntax in ENCODERS:
        planes = array if array.ndim == 3 else array[None]
        if (
            syntax in UNSIGNED
        ):  # signed numbers travel as their bits; the header says how to read them
            planes = planes.view(f"u{planes.dtype.itemsize}")
        frames = [bytes(ENCODERS[syntax](np.ascontiguousarray(plane))) for plane in planes]
        out.PixelData = encapsulate(frames, fragments_per_frame=pieces, has_bot=pieces > 1)
        out["PixelData"].is_undefined_length = True
    elif syntax == f"{BASE}.2":
        out.PixelData = array.astype(array.dtype.newbyteorder(">")).tobytes()
    out["PixelData"].VR = "OW" if array.dtype.itemsize > 1 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(
        path, out, implicit_vr=syntax == BASE, little_endian=syntax != f"{BASE}.2",
        enforce_file_format=True,
    )  # fmt: skip
    return path


def enhanced(array: Any, order: Any, *, rescales: Any = None, step: float = 2.5) -> Dataset:
    """Enhanced CT: frame k of the file is slice `order[k]` of `array`."""
    out = dataset(array[order], spacing_yx=(1.2, 0.8))
    out.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
    shared, each = Dataset(), []
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1.2, 0.8], 3.0
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    for index in order:
        item, place, value = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-10.0, 20.0, 30.0 + step * int(index)]
        item.PlanePositionSequence = Sequence([place])
        slope, intercept = (1, 0) if rescales is None else rescales[int(index)]
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = slope, intercept, "HU"
        item.PixelValueTransformationSequence = Sequence([value])
        each.append(item)
    out.SharedFunctionalGroupsSequence = Sequence([shared])
    out.PerFrameFunctionalGroupsSequence = Sequence(each)
    return out


__all__ = [
    "BASE",
    "ENCODERS",
    "ROOT",
    "dataset",
    "encapsulate_extended",
    "enhanced",
    "jpegxl",
    "save",
]
