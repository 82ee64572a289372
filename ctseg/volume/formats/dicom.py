"""DICOM image series: a folder, or one file in it. Slices are placed by their position, never by name or number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats import itk, paths
from ctseg.volume.formats.source import AGAIN, Source, check_file, reading
from ctseg.volume.geometry import Geometry

_GAP_TOLERANCE = 0.02
"""Share of the slice distance by which a gap may differ: positions are decimal strings of few digits."""
_SHEAR_TOLERANCE = 1e-3
_NOT_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG"})


@dataclass(frozen=True)
class _Slice:
    """The header of one file."""

    path: Path
    size_xy: tuple[int, int]
    dtype: np.dtype[Any]
    tags: Mapping[str, str]

    def numbers(self, tag: str, count: int) -> NDArray[np.float64]:
        try:
            values = np.array([float(v) for v in self.tags[tag].split("\\")])
        except (KeyError, ValueError):
            values = np.zeros(0)
        if values.size != count:
            raise FileProblem(
                f"{self.path} lacks the DICOM tag ({tag.replace('|', ',')}), without which its place is unknown.",
                hint="Export the series again, as CT or MR image storage.",
            )
        return values


def open_dicom(path: Path, *, series: str | None = None) -> Source:
    """Open a series, stored values rescaled (to Hounsfield units for CT); any slices are read alone.

    Args:
        path: a folder with the files of a series, or one of its files.
        series: the SeriesInstanceUID (or its end) to take where the folder holds several.

    Raises:
        FileProblem: no image series, several of them, missing or doubled slices, a tilted gantry, damaged files.
    """
    files = _find(path, series)
    with reading(path):
        slices = [_read_header(file) for file in files]
    slices, geometry = _arrange(slices, path)
    dtype = np.result_type(*{one.dtype for one in slices})

    def load(start: int, stop: int) -> NDArray[Any]:
        out = np.empty((1, stop - start, *geometry.shape_zyx[1:]), dtype)
        for index, one in enumerate(slices[start:stop]):
            out[0, index] = _pixels(one)
        return out

    keep = {"modality": "0008|0060", "series_uid": "0020|000e", "description": "0008|103e",
            "study_uid": "0020|000d", "patient_id": "0010|0020"}  # fmt: skip
    tags = slices[0].tags
    metadata: dict[str, Any] = {
        k: tags[t].strip() for k, t in keep.items() if tags.get(t, "").strip()
    }
    metadata["files"] = [str(one.path) for one in slices]
    return Source(path, geometry, dtype, load, metadata=metadata)


def _find(path: Path, series: str | None) -> list[Path]:
    """The files of the series that is meant."""
    wanted = None
    folder = path
    if not path.is_dir():
        check_file(path)
        with reading(path):
            wanted = _read_header(path).tags.get("0020|000e", "").strip()
        folder = path.parent
    reader = sitk.ImageSeriesReader
    with itk.quiet():
        found = {uid.strip(): uid for uid in reader.GetGDCMSeriesIDs(str(folder))}
        files = {
            uid: [Path(name) for name in reader.GetGDCMSeriesFileNames(str(folder), raw)]
            for uid, raw in found.items()
        }
    _check_unlisted(folder, {file for names in files.values() for file in names})
    if wanted is not None:
        return files.get(wanted, [path])
    described = {uid: text for uid, names in files.items() if (text := _describe(names))}
    if series is not None:
        matches = [uid for uid in described if uid == series or uid.endswith(series)]
        if len(matches) == 1:
            return files[matches[0]]
        raise BadInput(
            f"{path} has {len(matches) or 'no'} image series that match '{series}'.",
            hint=_listed(described),
        )
    if not described:
        raise FileProblem(
            f"{path} holds no DICOM image series.",
            hint="Name the folder that holds the slices; segmentations (SEG, RTSTRUCT) are not scans.",
        )
    if len(described) > 1:
        raise FileProblem(
            f"{path} holds {len(described)} image series; one must be chosen.",
            hint=_listed(described)
            + "\n  Choose with the option series=UID (its last digits do), or name one "
            "file of the series.",
        )
    return files[next(iter(described))]


def _check_unlisted(folder: Path, listed: set[Path]) -> None:
    """Find files that GDCM passed over in silence: without them a series would only seem to end earlier.

    Raises:
        FileProblem: naming the first such file.
    """
    for file in sorted(folder.iterdir()):
        if file in listed or file.name.startswith(".") or file.name.upper() == "DICOMDIR":
            continue
        if file.is_file() and (paths.suffix_of(file, paths.DICOM) or paths.is_dicom_file(file)):
            raise FileProblem(f"{file} is truncated, damaged or no DICOM file.", hint=AGAIN)


def _describe(names: list[Path]) -> str:
    """One line on a series, empty where its files are no images."""
    try:
        first = _read_header(names[0])
    except (RuntimeError, FileProblem):
        return ""
    modality = first.tags.get("0008|0060", "").strip()
    if modality in _NOT_IMAGES:
        return ""
    return f"{modality} {first.tags.get('0008|103e', '').strip()} ({len(names)} files)"


def _listed(described: Mapping[str, str]) -> str:
    return "It holds:" + "".join(f"\n    {uid}  {text}" for uid, text in sorted(described.items()))


def _read_header(path: Path) -> _Slice:
    reader = itk.read_header(path, "GDCMImageIO")
    tags = itk.metadata(reader)
    modality = tags.get("0008|0060", "").strip()
    if modality in _NOT_IMAGES:
        raise FileProblem(
            f"{path} is a DICOM {modality} object, not an image series.",
            hint="Convert it to a label map, e.g. .nii.gz or .nrrd.",
        )
    size = reader.GetSize()
    if len(size) > 2 and size[2] > 1:
        raise FileProblem(
            f"{path} is a multi-frame DICOM file of {size[2]} frames.",
            hint="Convert it to .nii.gz first, for example with dcm2niix.",
        )
    if reader.GetNumberOfComponents() != 1:
        raise FileProblem(f"{path} is a colour picture, not a scan.")
    return _Slice(path, (size[0], size[1]), itk.component_dtype(reader, path), tags)


def _arrange(slices: list[_Slice], path: Path) -> tuple[list[_Slice], Geometry]:
    """Slices in the order of their positions, and the grid that these give."""
    first = slices[0]
    cosines = first.numbers("0020|0037", 6)
    for one in slices[1:]:
        if one.size_xy != first.size_xy:
            raise FileProblem(
                f"{path}: the slices differ in size, {first.size_xy} in {first.path.name} and {one.size_xy} in "
                f"{one.path.name}.",
                hint="Remove the localiser or take it out as a series of its own.",
            )
        if np.abs(one.numbers("0020|0037", 6) - cosines).max() > 1e-3:
            raise FileProblem(
                f"{path}: the slices differ in orientation ({first.path.name}, {one.path.name}).",
                hint="Keep the slices of one orientation in a folder of their own.",
            )
    row, column = cosines[:3], cosines[3:]
    normal = np.cross(row, column)
    positions = np.array([one.numbers("0020|0032", 3) for one in slices])
    order = np.argsort(positions @ normal, kind="stable")
    slices, positions = [slices[i] for i in order], positions[order]
    spacing_yx = first.numbers("0028|0030", 2)
    gap, normal = _check_gaps(slices, positions, normal, path)
    matrix = np.stack([row, column, normal], axis=1)
    geometry = itk.make_geometry(
        path,
        (len(slices), first.size_xy[1], first.size_xy[0]),
        (spacing_yx[1], spacing_yx[0], gap),
        positions[0].tolist(),
        matrix,
    )
    return slices, geometry


def _check_gaps(
    slices: list[_Slice], positions: NDArray[np.float64], normal: NDArray[np.float64], path: Path
) -> tuple[float, NDArray[np.float64]]:
    """The distance of neighbouring slices, and the direction from the first to the last.

    Raises:
        FileProblem: doubled, missing or sheared slices.
    """
    if len(slices) == 1:
        thickness = slices[0].tags.get("0018|0050", "").strip()
        try:
            return max(float(thickness), 1e-3), normal
        except ValueError:
            return 1.0, normal
    gaps = np.diff(positions @ normal)
    gap = float(np.median(gaps))
    if gap <= 0 or gaps.min() < gap * _GAP_TOLERANCE:
        at = int(gaps.argmin())
        raise FileProblem(
            f"{path}: {slices[at].path.name} and {slices[at + 1].path.name} lie at the same place.",
            hint="Several phases or reconstructions share this series; keep one of them in a folder of its own.",
        )
    if np.abs(gaps - gap).max() > gap * _GAP_TOLERANCE:
        at = int(np.abs(gaps - gap).argmax())
        raise FileProblem(
            f"{path}: the slices are {gap:.4g} mm apart, but {gaps[at]:.4g} mm between "
            f"{slices[at].path.name} and {slices[at + 1].path.name}.",
            hint="A slice is probably missing: copy the series again, or resample it to equal distances.",
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    if np.linalg.norm(step - normal * (step @ normal)) > _SHEAR_TOLERANCE * gap:
        raise FileProblem(
            f"{path}: the slices are shifted against each other (tilted gantry), so the grid is sheared.",
            hint="Resample the scan to an unsheared grid first, for example with dcm2niix.",
        )
    return float(step @ normal), normal


def _pixels(one: _Slice) -> NDArray[Any]:
    reader = itk.read_header(one.path, "GDCMImageIO")
    with itk.quiet():
        array: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    return array.reshape(one.size_xy[::-1])
