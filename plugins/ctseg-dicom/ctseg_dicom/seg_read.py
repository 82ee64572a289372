"""DICOM SEG as a label map, on the grid of the series that it refers to or on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem, GeometryMismatch
from ctseg.volume.formats.source import Source
from ctseg.volume.geometry import Geometry
from ctseg.volume.lattice import Placement, placement
from ctseg_dicom.choose import MISSING, OVERLAPS, Combiner, Region, choose, label_header
from ctseg_dicom.codes import VALUE_TEXT, rgb_of
from ctseg_dicom.files import check_word, dicom, load, names_of
from ctseg_dicom.frames import Pixels, layout
from ctseg_dicom.series import missing_series, open_series
from ctseg_dicom.sniff import SEGMENTATION

_ON_GRID = 1e-2
"""Largest distance of corresponding voxels of two grids, in voxels: headers hold few digits."""

Read = Callable[[int, int], NDArray[Any]]


def open_dicom_seg(
    path: Path,
    *,
    segments: str | int | Sequence[str | int] | None = None,
    series: str | Path | None = None,
    grid: str = "auto",
    overlaps: str = "refuse",
    missing: str = "refuse",
    threshold: float = 0.5,
) -> Source:
    """Open a segmentation (BINARY, FRACTIONAL or LABELMAP); frames are decoded as they are read.

    Args:
        path: the file, or a folder that holds only this file.
        segments: names or numbers for the values 1, 2, ...; see `ctseg_dicom.choose.choose`. By default each segment
            has its number as value, or the value that ctseg stored when it wrote the file.
        series: the scan that defines the grid; by default it is searched around `path`.
        grid: `series` (which must be found), `own`, or `auto`: that of the series if it is found, else its own.
        overlaps: `refuse`, `last` or `channels`.
        missing: `refuse` or `empty`, for names of `segments` that the file lacks.
        threshold: for FRACTIONAL files, the fraction from which on a voxel belongs to a segment, above 0 up to 1.

    Raises:
        FileProblem: damaged, or not a DICOM SEG.
        UnknownName: no segment has a name of `segments`.
        GeometryMismatch: its voxels do not coincide with those of the series.
        BadInput: the series is not found, or segments overlap (raised when those slices are read).
    """
    check_word("overlaps", overlaps, OVERLAPS, path)
    check_word("missing", missing, MISSING, path)
    check_word("grid", grid, ("auto", "series", "own"), path)
    names = names_of(segments)
    least = _threshold(threshold, path)
    data = load(path, SEGMENTATION, "DICOM segmentation (SEG)")
    with dicom(path):
        own_grid, frames = layout(data, path)
        pixels = Pixels(data, path, least)
        regions = _regions(data)
        uids = [str(item.SeriesInstanceUID) for item in data.get("ReferencedSeriesSequence") or []]
        frame_uid = str(data.get("FrameOfReferenceUID", ""))
        kind = str(data.SegmentationType)
    chosen = choose(regions, names, missing, "segment", path)
    value_of = {region.number: value for value, parts in chosen for region in parts}
    labelled = [(value, parts[0].name if parts else f"label {value}") for value, parts in chosen]
    ranks = {region.number: rank for rank, (_, parts) in enumerate(chosen) for region in parts}
    # where segments overlap, the last one asked for counts, wherever its frames are in the file
    frames.sort(key=lambda frame: ranks.get(frame.segment or 0, 0))
    plane = own_grid.shape_zyx[1:]

    def read_own(start: int, stop: int) -> NDArray[Any]:
        combined = Combiner(labelled, overlaps, (stop - start, *plane), path)
        with dicom(path):
            for frame in frames:
                if not start <= frame.z < stop:
                    continue
                if frame.segment is None:
                    stored = pixels.stored(frame.index)
                    for number in np.unique(stored[stored > 0]).tolist():
                        if number in value_of:
                            combined.add(value_of[number], frame.z - start, stored == number)
                elif frame.segment in value_of:
                    mask = pixels.mask(frame.index)
                    combined.add(value_of[frame.segment], frame.z - start, mask)
        return combined.array

    read, geometry = _on_series(path, own_grid, read_own, grid, series, uids, frame_uid)
    metadata = {
        "modality": "SEG",
        "segmentation_type": kind,
        "labels": {name: value for value, name in labelled},
        "colours": {p[0].name: p[0].colour for _, p in chosen if p and p[0].colour},
        "drawn_on": uids,
    }
    return Source(path, label_header(geometry, labelled, overlaps, metadata), read)


def _threshold(threshold: Any, path: Path) -> float:
    try:
        share = float(threshold)
    except (TypeError, ValueError):
        share = 0.0
    if not 0 < share <= 1:
        raise BadInput(
            f"The option threshold is {threshold!r} (for {path}).",
            hint="Use a fraction above 0, up to 1",
        )
    return share


def _regions(data: pydicom.Dataset) -> list[Region]:
    """The segments, each with its value in the label map."""
    items = data.SegmentSequence
    noted = [VALUE_TEXT.search(str(item.get("SegmentDescription") or "")) for item in items]
    values = [int(match[1]) for match in noted if match]
    if len(set(values)) != len(items):  # not written by ctseg, or changed afterwards
        values = [int(item.SegmentNumber) for item in items]
    return [
        Region(
            int(item.SegmentNumber),
            str(item.get("SegmentLabel") or f"segment {item.SegmentNumber}"),
            value,
            rgb_of(item.get("RecommendedDisplayCIELabValue")),
        )
        for item, value in zip(items, values, strict=True)
        if int(item.SegmentNumber) > 0  # 0 is the background of a label map
    ]


def _on_series(
    path: Path,
    own_grid: Geometry,
    read_own: Read,
    grid: str,
    series: str | Path | None,
    uids: Sequence[str],
    frame_uid: str,
) -> tuple[Read, Geometry]:
    """The function that reads slices of the requested grid, and that grid."""
    if grid == "own":
        return read_own, own_grid
    try:
        scan = open_series(path, series, uids, frame_uid)
    except FileProblem as error:
        if series is not None or grid == "series":
            raise
        raise FileProblem(
            f"The series that {path} refers to cannot be opened: {error.message}",
            hint="Use grid=own to read the segmentation on its own grid.",
        ) from error
    if scan is None:
        if grid == "series":
            raise missing_series(path, uids)
        return read_own, own_grid
    target = scan.geometry
    scan.close()
    if own_grid.agrees(target):
        return read_own, target
    place = _placed(own_grid, target, path, scan.path)
    z0, depth = place.start[0], place.shape[0]
    # then slices of the series are slices of the segmentation
    along = place.axes == (0, 1, 2) and place.signs[0] > 0

    def read(first: int, last: int) -> NDArray[Any]:
        low, high = max(first, z0), min(last, z0 + depth)
        if low >= high:
            nothing = read_own(0, 1)
            return np.zeros((len(nothing), last - first, *target.shape_zyx[1:]), nothing.dtype)
        if not along:
            part = read_own(0, own_grid.shape_zyx[0])
            return place.place(part, (first, 0, 0), (last, *target.shape_zyx[1:]))
        part = read_own(low - z0, high - z0)
        inner = replace(place, start=(low, *place.start[1:]), shape=(high - low, *place.shape[1:]))
        return inner.place(part, (first, 0, 0), (last, *target.shape_zyx[1:]))

    return read, target


def _placed(own_grid: Geometry, target: Geometry, path: Path, scan: Path) -> Placement:
    """The placement of a grid within that of the series.

    Raises:
        GeometryMismatch: the voxels do not coincide, or some lie outside.
    """
    place = placement(own_grid, target, max(_ON_GRID, 1e-5 * max(own_grid.shape_zyx)))
    if place is None:
        raise GeometryMismatch(
            f"The voxels of {path} are not those of the series {scan}: {target.difference(own_grid)}.",
            hint="Read it on its own grid with the option grid=own, and resample: ctseg data convert A B "
            "--option grid=own --like REFERENCE",
        )
    if min(place.start) < 0 or any(
        b > n for b, n in zip(place.stop, target.shape_zyx, strict=True)
    ):
        raise GeometryMismatch(
            f"{path} reaches beyond the series {scan}: voxels {list(place.start)} to "
            f"{[b - 1 for b in place.stop]} (z, y, x) of {target.shape_zyx}.",
            hint="Slices of the series are missing. Read the segmentation with the option grid=own.",
        )
    return place
