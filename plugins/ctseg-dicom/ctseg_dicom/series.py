"""The image series that a SEG or RTSTRUCT refers to: found nearby, or named by the option `series`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ctseg.errors import BadInput, FileProblem, GeometryMismatch
from ctseg.specs import VolumeSource
from ctseg.volume.formats.dicom.first_bytes import is_dicom_file
from ctseg.volume.io import open_volume
from ctseg_dicom.files import dicom, read_dataset

_FOLDERS = 3000
_FILES = 20_000
"""Most folders to look at in a search."""


def open_series(
    path: Path, series: str | Path | None, series_uids: Sequence[str], frame_uid: str
) -> VolumeSource | None:
    """Open the scan that an object at `path` belongs to.

    Args:
        path: the SEG or RTSTRUCT.
        series: file or folder of the scan, in any format; by default folders around `path` are searched.
        series_uids: the SeriesInstanceUIDs that the object refers to.
        frame_uid: its FrameOfReferenceUID.

    Returns:
        None if no series was named and none of those referred to is nearby.

    Raises:
        FileProblem: the named scan is missing or damaged.
        GeometryMismatch: it lies in another frame of reference.
    """
    if series is not None:
        return _open_named(path, Path(series), series_uids, frame_uid)
    for folder, uid in _search(path, series_uids):
        parts = [other for other in _folders_in([folder.parent]) if _first_uid(other) == uid]
        root = folder.parent if len(parts) > 1 else folder  # large series are spread over folders
        return open_volume(root, format="dicom", series=uid)
    return None


def _open_named(
    path: Path, named: Path, series_uids: Sequence[str], frame_uid: str
) -> VolumeSource:
    place = named if named.exists() or named.is_absolute() else path.parent / named
    if not place.exists():
        raise FileProblem(
            f"The scan {named} that the option series names for {path} does not exist.",
            hint="Name the folder of its slices, or one of its files.",
        )
    uids_here = [uid for uid in series_uids if place.is_dir() and _holds(place, uid)]
    source = (
        open_volume(place, format="dicom", series=uids_here[0])
        if len(uids_here) == 1
        else open_volume(place)
    )
    uid = source.metadata.get("series_uid")
    files = source.metadata.get("files")
    if not uid or uid in series_uids or not files:
        return source  # a scan in another format does not identify its series
    frame = str(source.metadata.get("frame_of_reference_uid", ""))
    if frame_uid and frame and frame != frame_uid:
        source.close()
        raise GeometryMismatch(
            f"{path} belongs to another scan than {place}: it refers to the series "
            f"{', '.join(series_uids) or 'unknown'} in the frame of reference {frame_uid}, not {frame}.",
            hint="Name the series that it was drawn on, or one registered to it.",
        )
    return source


def missing_series(path: Path, series_uids: Sequence[str]) -> BadInput:
    """The error for an object whose series is not found."""
    return BadInput(
        f"The image series that {path} refers to is not near it: {', '.join(series_uids) or 'it names none'}.",
        hint="Put it into a folder beside, or name it with the option series=FOLDER.",
    )


def _search(path: Path, series_uids: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Folders that hold one of the series, the nearest first."""
    uids = set(series_uids)
    if not uids:
        return
    folders = list(_folders_around(path.resolve()))
    for folder in folders:  # a folder mostly holds one series, so the first file suffices
        if (uid := _first_uid(folder)) in uids:
            yield folder, uid
    for number, file in enumerate(_dicom_files(folders)):
        if number >= _FILES:
            return
        if (uid := _tag(file, "SeriesInstanceUID")) in uids:
            yield file.parent, uid


def _folders_around(path: Path) -> Iterator[Path]:
    own_folder = path if path.is_dir() else path.parent
    rings = [[own_folder], _folders_in([own_folder]), _folders_in([own_folder.parent])]
    rings.append(_folders_in(rings[2]))
    visited: set[Path] = set()
    for folder in (folder for ring in rings for folder in ring):
        if folder not in visited and len(visited) < _FOLDERS:
            visited.add(folder)
            yield folder


def _folders_in(parents: Iterable[Path]) -> list[Path]:
    folders: list[Path] = []
    for parent in parents:
        if len(folders) >= _FOLDERS:
            break
        try:
            entries = sorted(parent.iterdir())
        except OSError:
            continue
        folders += [e for e in entries if e.is_dir() and not e.name.startswith(".")]
    return folders


def _dicom_files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        yield from (e for e in entries if e.is_file() and is_dicom_file(e))


def _first_uid(folder: Path) -> str:
    """The series of the first DICOM file of a folder; empty without one."""
    first = next(_dicom_files([folder]), None)
    return "" if first is None else _tag(first, "SeriesInstanceUID")


def _holds(folder: Path, uid: str) -> bool:
    return any(_tag(file, "SeriesInstanceUID") == uid for file in _dicom_files([folder]))


def _tag(path: Path, keyword: str) -> str:
    """One value of a file's header; empty if it cannot be read."""
    try:
        with dicom(path):
            header = read_dataset(path, stop_before_pixels=True, specific_tags=[keyword])
            return str(header.get(keyword, ""))
    except Exception:  # damaged files raise errors of any kind, which must not end the search
        return ""
