"""The image series in a folder of DICOM files, and the files of the chosen one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats import paths
from ctseg.volume.formats.dicom.first_bytes import is_dicom_file
from ctseg.volume.formats.dicom.frames import frames_of
from ctseg.volume.formats.dicom.header import Header, read_dicom_header
from ctseg.volume.formats.source import AGAIN, check_file, reading

_NOT_IMAGES = frozenset(
    [
        "SEG",
        "RTSTRUCT",
        "RTDOSE",
        "RTPLAN",
        "RTRECORD",
        "SR",
        "PR",
        "KO",
        "REG",
        "PLAN",
        "DOC",
        "FID",
        "RWV",
    ]
)
_UID, _STUDY, _MODALITY, _DESCRIPTION = 0x0020000E, 0x0020000D, 0x00080060, 0x0008103E
_MOST_COSINE = 1.1
"""Beyond it, and not finite, a direction is damaged."""
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Series:
    """One series of a folder or study.

    Attributes:
        uid, study_uid: SeriesInstanceUID and StudyInstanceUID.
        modality: e.g. `CT`.
        description: as entered by the scanner's operator.
        slices: number of planes, with multi-frame files counted by frame.
        shape_yx: voxels of a plane; (0, 0) without any.
        orientation: axial, coronal, sagittal, or oblique; empty if the files do not give it.
        image: whether it is a scan, unlike segmentations, contours, reports and localizers.
        files: its files.
    """

    uid: str
    study_uid: str
    modality: str
    description: str
    slices: int
    shape_yx: tuple[int, int]
    orientation: str
    image: bool
    files: tuple[Path, ...]

    @property
    def line(self) -> str:
        """The series in one line of text."""
        words = [
            self.modality, self.description, f"({len(self.files)} files)" if self.image else "(no scan)",
            f"{self.slices} slices of {self.shape_yx[1]} x {self.shape_yx[0]}" if self.image else "",
            self.orientation,
        ]  # fmt: skip
        return f"{self.uid}  " + " ".join(word for word in words if word)


def list_series(path: Path) -> tuple[Series, ...]:
    """All series of a folder with its subfolders, or of one file; scans first, larger ones before smaller.

    Raises:
        FileProblem: there are none, or a DICOM file is damaged.
    """
    groups = _grouped(read_headers(path))
    listed = [_series(uid, headers) for uid, headers in groups.items()]
    return tuple(sorted(listed, key=lambda one: (not one.image, -one.slices, one.uid)))


def read_headers(path: Path) -> list[Header]:
    """The headers of all DICOM files in a folder with its subfolders, or of one file.

    Raises:
        FileProblem: a DICOM file is damaged; skipping it would shorten its series silently.
    """
    if not path.is_dir():
        check_file(path)
        with reading(path):
            return [read_dicom_header(path)]
    headers = []
    for file in _files(path):
        try:
            with reading(file):
                headers.append(read_dicom_header(file))
        except FileProblem as error:
            raise FileProblem(
                f"{file} is truncated, damaged or not a DICOM file: {error.message}", hint=AGAIN
            ) from error
    return headers


def _files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(where) / name
            if name.startswith(".") or name.upper() == "DICOMDIR" or not file.is_file():
                continue
            if paths.suffix_of(file, paths.DICOM) or is_dicom_file(file):
                yield file


def find_series(path: Path, series_uid: str | None) -> list[Header]:
    """The headers of the series that a path and the option `series` select, without its localizers.

    Args:
        path: a folder, or one file, which selects its series in the same folder.
        series_uid: a SeriesInstanceUID or its end, which a file's series must match, too.

    Raises:
        FileProblem: there is no image series, or there are several and none is chosen.
        BadInput: no series, or several, match the option; or it is not the file's.
    """
    if not path.is_dir():
        group = _of_file(path)
        uid = group[0].text(_UID)
        if series_uid is not None and not uid.endswith(series_uid):
            raise BadInput(
                f"{path} belongs to the series {uid}, not to '{series_uid}'.",
                hint="Name the folder, from which the option series chooses, or leave the option out.",
            )
        return group
    headers = read_headers(path)
    direct = {h.text(_UID) for h in headers if h.path.parent == path and is_image(h)}
    groups = _grouped(headers)
    if series_uid is not None:
        scans = {uid: group for uid, group in groups.items() if any(map(is_image, group))}
        matches = [uid for uid in scans if uid == series_uid] or [
            uid for uid in scans if uid.endswith(series_uid)
        ]
        if len(matches) == 1:
            return _pictures(groups[matches[0]])
        raise BadInput(
            f"{path} has {len(matches) or 'no'} image series that match '{series_uid}'.",
            hint=_listed(groups),
        )
    scans = {uid: group for uid, group in groups.items() if any(map(is_image, group))}
    if direct:  # files in subfolders count if they belong to the same series
        scans = {uid: group for uid, group in scans.items() if uid in direct}
    if len(scans) > 1 and (larger := _without_localizers(scans)):
        scans = larger
    if not scans:
        raise FileProblem(
            f"{path} holds no DICOM image series.",
            hint="Name the folder that holds the slices; segmentations (SEG, RTSTRUCT) are not scans.",
        )
    if len(scans) > 1:
        raise FileProblem(
            f"{path} holds {len(scans)} image series; one must be chosen.",
            hint=_listed(scans)
            + "\n  Choose with the option series=UID (its last digits suffice), or name one ",
        )
    return _pictures(next(iter(scans.values())))


def _of_file(path: Path) -> list[Header]:
    (header,) = read_headers(path)
    if header.text(_MODALITY) in _NOT_IMAGES:
        raise FileProblem(
            f"{path} is a DICOM {header.text(_MODALITY)} object, not an image series.",
            hint="The plugin ctseg-dicom reads SEG and RTSTRUCT as labels: pip install ctseg-dicom",
        )
    if header.integer(0x00280008, 1) > 1:
        return [header]
    beside = []
    for file in sorted(path.parent.iterdir()):
        if file == path or file.name.startswith(".") or not file.is_file():
            continue
        if paths.suffix_of(file, paths.DICOM) or is_dicom_file(file):
            with reading(file):
                beside.append(read_dicom_header(file))
    group = [one for one in beside if one.text(_UID) == header.text(_UID)]
    return _pictures([header, *group])


def _grouped(headers: Iterable[Header]) -> dict[str, list[Header]]:
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(header.text(_UID), []).append(header)
    return groups


def is_image(header: Header) -> bool:
    """Whether a file contains one or more planes of a scan."""
    return header.text(_MODALITY) not in _NOT_IMAGES and header.pixel_tag != 0


def is_localizer(header: Header) -> bool:
    """Whether a file is a scout view, which scanners store with the scan or in a separate series."""
    return "LOCALIZER" in header.text(0x00080008).upper().split("\\")


def _pictures(headers: list[Header]) -> list[Header]:
    scan = [one for one in headers if is_image(one) and not is_localizer(one)]
    return scan or [one for one in headers if is_image(one)] or headers


def _without_localizers(scans: Mapping[str, list[Header]]) -> dict[str, list[Header]]:
    return {uid: group for uid, group in scans.items() if not all(map(is_localizer, group))}


def _series(uid: str, headers: list[Header]) -> Series:
    scan = _pictures(headers)
    first = scan[0]
    image = is_image(first) and not is_localizer(first)
    return Series(
        uid=uid,
        study_uid=first.text(_STUDY),
        modality=first.text(_MODALITY),
        description=first.text(_DESCRIPTION),
        slices=sum(max(one.integer(0x00280008, 1), 1) for one in scan) if image else 0,
        shape_yx=(first.integer(0x00280010), first.integer(0x00280011)),
        orientation=_orientation(first) if image else "",
        image=image,
        files=tuple(one.path for one in headers),
    )


def _orientation(header: Header) -> str:
    try:
        with reading(header.path):
            cosines = next(frames_of(header)).cosines
    except FileProblem:  # reported when this series is opened; the others can still be listed
        return ""
    if len(cosines) != 6 or not all(abs(cosine) <= _MOST_COSINE for cosine in cosines):
        return ""
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    return _PLANES[int(normal.argmax())] if normal.max() > 0.99 else "oblique"


def _listed(groups: Mapping[str, list[Header]]) -> str:
    series = sorted((_series(uid, group) for uid, group in groups.items()), key=lambda s: s.uid)
    return "It holds:" + "".join(f"\n    {one.line}" for one in series)
