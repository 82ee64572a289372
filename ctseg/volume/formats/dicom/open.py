"""DICOM image series: a folder, or one file in it. Slices are ordered by position, never by name or number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import Zyx
from ctseg.volume.formats.dicom.frames import Frame, frames_of
from ctseg.volume.formats.dicom.grid import Stack, arrange
from ctseg.volume.formats.dicom.header import DEFLATED
from ctseg.volume.formats.dicom.pixels import check_syntax, dtype_of, pixels
from ctseg.volume.formats.dicom.series import find_series, list_series
from ctseg.volume.formats.dicom.straighten import straight_geometry, straight_slice
from ctseg.volume.formats.source import ScanHeader, Source, reading
from ctseg.volume.geometry import Geometry

_METADATA_TAGS = {"modality": 0x00080060, "series_uid": 0x0020000E, "description": 0x0008103E,
         "study_uid": 0x0020000D, "patient_id": 0x00100020, "frame_of_reference_uid": 0x00200052}  # fmt: skip
_AIR = {"CT": -1024.0}


def open_dicom(path: Path, *, series: str | None = None, straighten: str = "no") -> Source:
    """Open a series with rescaled values (Hounsfield units for CT); slices are read one by one.

    Args:
        path: a folder with the files of a series, at any depth, or one of its files.
        series: SeriesInstanceUID (or its end) to choose if the folder holds several; a file must belong to it.
        straighten: `yes` resamples uneven or sheared slices (missing ones, a tilted gantry) onto an even
            grid, linearly; otherwise such scans are refused.

    Raises:
        FileProblem: no image series, several of them, missing or duplicate slices, a tilted gantry, damaged files.
    """
    if straighten not in ("yes", "no"):
        raise BadInput(f"The option straighten of DICOM is 'yes' or 'no', not '{straighten}'.")
    headers = find_series(path, series)
    with reading(path):
        for header in headers:
            check_syntax(header)
        stack = arrange([frame for header in headers for frame in frames_of(header)], path)
        dtype = dtype_of(list(stack.frames))
    metadata = _metadata(stack)
    by_region = all(h.syntax != DEFLATED or h.integer(0x00280008, 1) == 1 for h in headers)
    if stack.problem is None:
        return _even(path, stack, dtype, metadata, by_region=by_region)
    if straighten == "no":
        raise stack.problem
    metadata["notes"] = [*metadata["notes"], f"straightened: {stack.problem.message}"]
    return _straight(path, stack, dtype, metadata, by_region=by_region)


def parts(path: Path) -> dict[str, dict[str, str]]:
    """The image series of a folder, by description and the end of their UID, and the option that opens each.

    The ends are as long as is needed to distinguish the series: the UIDs of some scanners all end in 0.0.0.
    """
    scans = [one for one in list_series(path) if one.image]
    for length in range(6, 65):
        ends = [one.uid[-length:].replace(".", "") for one in scans]
        if len(set(ends)) == len(scans):
            break
    names = ("_".join(filter(None, (s.description, e))) for s, e in zip(scans, ends, strict=True))
    return {name: {"series": one.uid} for name, one in zip(names, scans, strict=True)}


def _even(
    path: Path, stack: Stack, dtype: np.dtype[Any], metadata: dict[str, Any], *, by_region: bool
) -> Source:
    frames, shape = stack.frames, stack.geometry.shape_zyx

    def load_box(start: Zyx, stop: Zyx) -> NDArray[Any]:
        out = np.empty((1, *(b - a for a, b in zip(start, stop, strict=True))), dtype)
        for index, frame in enumerate(frames[start[0] : stop[0]]):
            with _naming(frame, path):
                rows = pixels(frame, dtype, (start[1], stop[1]))
            out[0, index] = rows[:, start[2] : stop[2]]
        return out

    return Source(
        path,
        ScanHeader(stack.geometry, dtype, by_region=by_region, metadata=metadata),
        lambda start, stop: load_box((start, 0, 0), (stop, *shape[1:])),
        load_box=load_box,
    )


def _straight(
    path: Path, stack: Stack, dtype: np.dtype[Any], metadata: dict[str, Any], *, by_region: bool
) -> Source:
    geometry: Geometry = straight_geometry(stack)
    outside = _AIR.get(str(metadata.get("modality")), 0.0)
    if dtype.kind != "f":
        outside = float(np.clip(outside, np.iinfo(dtype).min, np.iinfo(dtype).max))

    def plane(index: int) -> NDArray[Any]:
        with _naming(stack.frames[index], path):
            return pixels(stack.frames[index], dtype)

    def load(start: int, stop: int) -> NDArray[Any]:
        out = np.empty((1, stop - start, *geometry.shape_zyx[1:]), dtype)
        for number in range(start, stop):
            values = straight_slice(stack, geometry, number, plane, outside)
            out[0, number - start] = values if dtype.kind == "f" else np.rint(values)
        return out

    header = ScanHeader(geometry, dtype, by_region=by_region, metadata=metadata)
    return Source(path, header, load)


def _naming(frame: Frame, path: Path) -> Any:
    """Name the slice's file in errors, since `path` may be its folder."""
    return reading(frame.header.path if frame.header.path != path else path)


def _metadata(stack: Stack) -> dict[str, Any]:
    first = stack.frames[0].header
    metadata: dict[str, Any] = {
        key: first.text(tag) for key, tag in _METADATA_TAGS.items() if first.text(tag)
    }
    metadata["files"] = list(dict.fromkeys(str(frame.header.path) for frame in stack.frames))
    metadata["notes"] = list(stack.notes)
    return metadata
