"""The images of a DICOM series that a SEG or structure set refers to: one for each slice of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from ctseg.errors import BadInput, GeometryMismatch
from ctseg.specs import VolumeSource
from ctseg.volume.geometry import Geometry
from ctseg_dicom.files import dicom, read_dataset

HINT = "Predict from the DICOM series itself, or write .nii.gz or .nrrd, which need no source."
_ON_GRID = 1e-2
"""Largest distance between a slice of the result and its image, in voxels: headers hold few digits."""
_UNEVEN = 0.041
"""Largest deviation of a gap between images from the mean, as a fraction: the reader allows 2 % from the median."""
_TURN = 1e-3
"""The same for direction cosines."""
_EMPTY_TYPE_2 = (
    "AccessionNumber", "PatientBirthDate", "PatientID", "PatientName", "PatientSex", "ReferringPhysicianName",
    "StudyDate", "StudyID", "StudyTime",
)  # fmt: skip
"""Elements that every image must have, even if empty, and anonymised images sometimes lack."""
_NEEDED = {
    "SOPClassUID": "kind of object", "SOPInstanceUID": "identifier", "StudyInstanceUID": "study",
    "SeriesInstanceUID": "series", "FrameOfReferenceUID": "frame of reference", "Modality": "modality",
}  # fmt: skip
_ALIKE = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID")
_IN_FILE_META = {
    "SOPClassUID": "MediaStorageSOPClassUID",
    "SOPInstanceUID": "MediaStorageSOPInstanceUID",
}


@dataclass(frozen=True)
class Images:
    """The images at the slices of a grid.

    Attributes:
        headers: headers of single images, or of the one file that holds them all.
        frame_of: for each slice of the grid the number of its image.
        count: number of images; those beyond the grid stay empty.
        places_xyz: [Z, 3] the position of each slice's image by its header, mm, about which the grid is even.
    """

    headers: list[pydicom.Dataset]
    frame_of: list[int]
    count: int
    places_xyz: NDArray[np.float64]


def images_under(
    path: Path, geometry: Geometry, reference: VolumeSource | None, kind: str = "a DICOM SEG"
) -> Images:
    """The headers of the images at each slice of the grid.

    Args:
        path: the file that will refer to them.
        kind: what that file is, for messages.

    Raises:
        BadInput: the reference is not a DICOM series.
        GeometryMismatch: a slice has no image.
    """
    files = [] if reference is None else list(reference.metadata.get("files", []))
    if reference is None or not files:
        what = "none was given" if reference is None else f"{reference.path} is none"
        raise BadInput(
            f"{path}: {kind} refers to the images of a DICOM series, and {what}.", hint=HINT
        )
    found: list[tuple[pydicom.Dataset, str, int]] = []
    places: list[NDArray[np.float64]] = []
    many = 0
    for name in files:
        with dicom(Path(name)):
            header = read_dataset(Path(name), stop_before_pixels=True)
            many = max(many, int(header.get("NumberOfFrames") or 1))
            if many > 1 and len(files) > 1:
                raise BadInput(
                    f"{path}: the series consists of several files with many frames.", hint=HINT
                )
            for number, place in _planes(header, geometry):
                found.append((header, name, number))
                places.append(place)
            _complete(header, name, kind)
    places_xyz = np.array(places).reshape(-1, 3)
    inverse = np.linalg.inv(geometry.affine)
    index = _as_read(places_xyz, reference.geometry) @ inverse[:3, :3].T + inverse[:3, 3]
    off = np.abs(index - [0, 0, 1] * np.rint(index)).max(1, initial=0)
    depth = geometry.shape_zyx[0]
    at = {int(k): n for n, k in enumerate(np.rint(index[:, 2])) if off[n] <= _ON_GRID}
    missing = sorted(set(range(depth)) - set(at))
    if missing:
        raise GeometryMismatch(
            f"{path}: {len(missing)} of {depth} slices, the first of them slice {missing[0]}, are no images of the "
            f"series {reference.path}.",
            hint=f"{kind[0].upper()}{kind[1:]} is written on the grid of its series; resample the result onto it.",
        )
    order = [at[k] for k in range(depth)]
    headers, places_xyz = [found[n][0] for n in order], places_xyz[order]
    if many > 1:
        return Images(headers[:1], [found[n][2] for n in order], many, places_xyz)
    _check_one_series(headers, [found[n][1] for n in order], kind)
    return Images(headers, list(range(depth)), depth, places_xyz)


def _planes(
    header: pydicom.Dataset, geometry: Geometry
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The frames of an image file that have the size and orientation of slices of the grid, and their positions."""
    if (int(header.Rows), int(header.Columns)) != geometry.shape_zyx[1:]:
        return
    groups = header.get("PerFrameFunctionalGroupsSequence") or [header]
    shared = (header.get("SharedFunctionalGroupsSequence") or [header])[0]
    for number, group in enumerate(groups):

        def place(keyword: str, value: str, group: pydicom.Dataset = group) -> NDArray[np.float64]:
            owner = group if keyword in group else shared
            item = owner[keyword].value[0] if keyword in owner else owner
            return np.array(item[value].value, np.float64)

        cosines = place("PlaneOrientationSequence", "ImageOrientationPatient").reshape(2, 3).T
        if np.abs(cosines - geometry.matrix[:, :2]).max() <= _TURN:
            yield number, place("PlanePositionSequence", "ImagePositionPatient")


def _as_read(places_xyz: NDArray[np.float64], grid: Geometry) -> NDArray[np.float64]:
    """Where images lie on the grid that the reader made of them: even, though positions of few digits are not.

    Positions that are no such grid, as of part of a series or one that was straightened, stay as they are.
    """
    inverse = np.linalg.inv(grid.affine)
    heights = places_xyz @ inverse[2, :3] + inverse[2, 3]
    order = np.argsort(heights)
    slices, gaps = np.arange(grid.shape_zyx[0]), np.diff(heights[order])
    if len(heights) != len(slices) or np.abs(gaps - 1).max(initial=0) > _UNEVEN:
        return places_xyz
    if np.abs(heights[order] - slices).max() >= 0.5:
        return places_xyz
    out = np.empty_like(places_xyz)
    out[order] = grid.position(np.column_stack([0 * slices, 0 * slices, slices]))
    return out


def _complete(header: pydicom.Dataset, name: str, kind: str) -> None:
    """Refuse an image that cannot be referred to; add missing required elements, empty."""
    meta = getattr(header, "file_meta", pydicom.Dataset())
    for keyword, other in _IN_FILE_META.items():
        if not header.get(keyword) and meta.get(other):
            setattr(header, keyword, meta[other].value)
    lacking = [keyword for keyword in _NEEDED if not str(header.get(keyword) or "").strip()]
    if lacking:
        words = ", ".join(f"{_NEEDED[keyword]} ({keyword})" for keyword in lacking)
        raise BadInput(f"{name} names no {words}, to which {kind} must refer.", hint=HINT)
    for keyword in _EMPTY_TYPE_2:
        if keyword not in header:
            setattr(header, keyword, "")


def _check_one_series(headers: Sequence[pydicom.Dataset], names: Sequence[str], kind: str) -> None:
    """Refuse images that cannot be referred to together, or an image that occurs twice.

    Raises:
        BadInput: the message names the first of them.
    """
    first, name_of_uid = headers[0], dict[str, str]()
    for header, name in zip(headers, names, strict=True):
        for keyword in _ALIKE:
            if header.get(keyword) != first.get(keyword):
                raise BadInput(
                    f"{name} has another {_NEEDED[keyword]} ({keyword}) than {names[0]}; {kind} refers to one "
                    "series.",
                    hint=HINT,
                )
        uid = str(header.SOPInstanceUID)
        if uid in name_of_uid:
            raise BadInput(
                f"{name} and {name_of_uid[uid]} have the same SOPInstanceUID, by which {kind} refers to each of "
                "them.",
                hint=HINT,
            )
        name_of_uid[uid] = name
