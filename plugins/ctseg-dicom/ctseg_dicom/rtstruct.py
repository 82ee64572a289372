"""RT structure sets as label maps: contours in millimetres, filled on the grid of the series they were drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from ctseg.errors import FileProblem, GeometryMismatch
from ctseg.volume.formats.source import Source
from ctseg.volume.geometry import Geometry
from ctseg_dicom import raster
from ctseg_dicom.choose import MISSING, OVERLAPS, Combiner, Region, choose, label_header
from ctseg_dicom.codes import MANUFACTURER, VALUE_TEXT
from ctseg_dicom.files import check_word, dicom, load, names_of
from ctseg_dicom.plane import Plane
from ctseg_dicom.series import missing_series, open_series
from ctseg_dicom.sniff import STRUCTURE_SET

_CANCELLING = ("CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
_CLOSED = ("CLOSED_PLANAR", *_CANCELLING)
_FLAT_MM = 0.1
"""Largest distance of a contour's points from its plane: coordinates are decimal strings of few digits."""
_ON_SLICE = 0.1
"""Largest distance of a contour from a slice on which it counts, as a fraction of the slice distance."""
_NEIGHBOURS = 1.5
"""Largest gap between contours of one body, as a multiple of their usual distance; larger ones leave a gap."""


@dataclass(frozen=True)
class Drawn:
    """One closed contour: points [N, 3] of x, y, z, and whether it is CLOSEDPLANAR_XOR."""

    points: NDArray[np.float64]
    cancels: bool


@dataclass(frozen=True)
class Contours:
    """The contours of one region of interest, in voxels of the grid.

    Attributes:
        heights: position along z of each plane, ascending.
        planes: contours of each plane.
        step: usual distance of neighbouring planes; 1 if there is only one plane.
    """

    heights: NDArray[np.float64]
    planes: list[Plane]
    step: float

    @classmethod
    def of(cls, contours: Sequence[Drawn], *, every_slice: bool = False) -> Contours:
        """Group contours in voxels, each within one plane of constant z, by plane.

        Args:
            every_slice: whether each slice of the region has a contour, so that none lies between two of them, though
                images may lie beside the slices of the grid, which is even.
        """
        heights: list[float] = []
        grouped: list[list[Drawn]] = []
        for z, one in sorted(
            ((float(c.points[:, 2].mean()), c) for c in contours), key=lambda e: e[0]
        ):
            if not heights or z - heights[-1] > _ON_SLICE:
                heights.append(z)
                grouped.append([])
            grouped[-1].append(one)
        planes = [
            Plane.of([c.points[:, :2] for c in group], cancels=any(c.cancels for c in group))
            for group in grouped
        ]
        if every_slice and len({round(z) for z in heights}) == len(heights):
            heights = [float(round(z)) for z in heights]
        gaps = np.diff(heights)
        usual = float(np.median(gaps)) if len(gaps) and not every_slice else 1.0
        return cls(np.array(heights), planes, usual)

    def mask(
        self, z: int, shape_yx: tuple[int, int], *, interpolate: bool
    ) -> NDArray[np.bool_] | None:
        """The voxels of slice z inside the contours; None without any.

        A contour on the slice applies directly. Between two contours no farther apart than usual the shape is
        interpolated, and it extends beyond the last one by half their distance: each contour represents a slab of
        that thickness.
        """

        def filled(index: int) -> NDArray[np.bool_]:
            return self.planes[index].mask(shape_yx)

        near = int(np.abs(self.heights - z).argmin())
        away = z - float(self.heights[near])
        if abs(away) <= _ON_SLICE:
            return filled(near)
        if not interpolate:
            return filled(near) if -0.5 < away <= 0.5 else None
        above = int(np.searchsorted(self.heights, z))
        if 0 < above < len(self.heights):
            low, high = float(self.heights[above - 1]), float(self.heights[above])
            if high - low <= _NEIGHBOURS * self.step:
                share = (z - low) / (high - low)
                return raster.between(filled(above - 1), filled(above), share)
        return filled(near) if -self.step / 2 < away <= self.step / 2 else None


def open_rtstruct(
    path: Path,
    *,
    roi: str | Sequence[str] | None = None,
    series: str | Path | None = None,
    overlaps: str = "refuse",
    missing: str = "refuse",
    between: str = "interpolate",
) -> Source:
    """Open a structure set as a label map on the grid of its series; slices are filled as they are read.

    Args:
        path: the file, or a folder that holds only this file.
        roi: names for the values 1, 2, ...; see `ctseg_dicom.choose.choose`. By default all regions of interest with
            closed contours, in the order of their numbers.
        series: the scan that was drawn on; by default it is searched around `path`.
        overlaps: `refuse`, `last` or `channels`.
        missing: `refuse` or `empty`, for names of `roi` that the file lacks.
        between: `interpolate` slices between two contours, or `none`, which uses contours within half a slice only.

    Raises:
        FileProblem: damaged, or not a structure set.
        UnknownName: no region of interest has a name of `roi`.
        BadInput: the series is not found, or regions overlap.
        GeometryMismatch: contours lie off the slices of the series, or the series is of another scan.
    """
    check_word("overlaps", overlaps, OVERLAPS, path)
    check_word("missing", missing, MISSING, path)
    check_word("between", between, ("interpolate", "none"), path)
    names = names_of(roi)
    data = load(path, STRUCTURE_SET, "DICOM RT structure set")
    with dicom(path):
        regions, contours_mm, frames = _regions(data)
        notes = [] if names else _left_out(data, regions)
        chosen = choose(regions, names, missing, "region of interest", path)
        numbers = [region.number for _, parts in chosen for region in parts]
        uids, frame = _references(data, [frames[n] for n in numbers])
    scan = open_series(path, series, uids, frame)
    if scan is None:
        raise missing_series(path, uids)
    geometry, about = scan.geometry, dict(scan.metadata)
    scan.close()
    every_slice = str(data.get("Manufacturer", "")) == MANUFACTURER
    contours = {
        n: Contours.of(
            [_in_voxels(contour, geometry, path) for contour in contours_mm[n]],
            every_slice=every_slice,
        )
        for n in numbers
    }
    if contours and not any(_touches(one, geometry) for one in contours.values()):
        raise GeometryMismatch(
            f"The contours of {path} lie outside the scan {scan.path}.",
            hint="Check that both belong to the same study.",
        )
    labelled = [(value, parts[0].name if parts else f"label {value}") for value, parts in chosen]
    plane = geometry.shape_zyx[1:]
    for _, parts in chosen:
        for region in parts:
            notes += _combined(region.name, contours[region.number].planes, plane)

    def read(start: int, stop: int) -> NDArray[Any]:
        combined = Combiner(labelled, overlaps, (stop - start, *plane), path)
        for value, parts in chosen:
            for region in parts:
                for z in range(start, stop):
                    mask = contours[region.number].mask(z, plane, interpolate=between != "none")
                    if mask is not None:
                        combined.add(value, z - start, mask)
        return combined.array

    colours = {name: parts[0].colour for (_, name), (_, parts) in zip(labelled, chosen, strict=True)
               if parts and parts[0].colour}  # fmt: skip
    metadata = {
        "modality": "RTSTRUCT",
        "labels": {name: value for value, name in labelled},
        "colours": colours,
        "drawn_on": about.get("series_uid", str(scan.path)),
        "notes": notes,
    }
    return Source(path, label_header(geometry, labelled, overlaps, metadata), read)


def _regions(
    data: pydicom.Dataset,
) -> tuple[list[Region], dict[int, list[Drawn]], dict[int, str]]:
    """Regions with closed contours, the contours in mm, and the frame of reference of each region."""
    contours: dict[int, list[Drawn]] = {}
    colours: dict[int, Any] = {}
    for item in data.get("ROIContourSequence") or []:
        number = int(item.ReferencedROINumber)
        colours[number] = item.get("ROIDisplayColor")
        for contour in item.get("ContourSequence") or []:
            if contour.ContourGeometricType in _CLOSED:
                points = np.array(contour.ContourData, np.float64)
                if points.size % 3 or not np.isfinite(points).all():
                    raise ValueError(f"a contour of region {number} has {points.size} coordinates")
                if points.size >= 9:  # fewer than three points enclose no area
                    cancels = contour.ContourGeometricType in _CANCELLING
                    contours.setdefault(number, []).append(Drawn(points.reshape(-1, 3), cancels))
    regions: list[Region] = []
    frames: dict[int, str] = {}
    for item in sorted(data.StructureSetROISequence, key=lambda one: int(one.ROINumber)):
        number = int(item.ROINumber)
        if number in contours:
            colour = colours[number]
            rgb = (int(colour[0]), int(colour[1]), int(colour[2])) if colour else None
            name = str(item.get("ROIName") or f"ROI {number}")
            stated = VALUE_TEXT.match(str(item.get("ROIDescription") or "").strip())
            regions.append(Region(number, name, int(stated[1]) if stated else 0, rgb))
            frames[number] = str(item.get("ReferencedFrameOfReferenceUID", ""))
    values = [region.value for region in regions]
    if 0 in values or len(set(values)) < len(values):  # not, or not only, written by ctseg
        regions = [replace(region, value=n) for n, region in enumerate(regions, start=1)]
    return regions, contours, frames


def _left_out(data: pydicom.Dataset, regions: Sequence[Region]) -> list[str]:
    """A note on regions without an area: reference points, lines, empty ones."""
    region_numbers = {region.number for region in regions}
    others = [
        str(item.get("ROIName") or item.ROINumber)
        for item in data.StructureSetROISequence
        if int(item.ROINumber) not in region_numbers
    ]
    return [f"left out, without closed contours: {', '.join(others)}"] if others else []


def _combined(name: str, planes: Sequence[Plane], shape_yx: tuple[int, int]) -> list[str]:
    """Notes on contours of a region that are repeated, cancel each other or cross."""
    left_out = sum(plane.copies for plane in planes if not plane.cancels)
    cancelled = sum(plane.copies for plane in planes if plane.cancels)
    crossing = sum(plane.crossings(shape_yx) > 0 for plane in planes)
    notes = []
    if left_out:
        notes.append(
            f"'{name}': repeated contours count once: {left_out} (only CLOSEDPLANAR_XOR ones cancel)"
        )
    if cancelled:
        notes.append(
            f"'{name}': CLOSEDPLANAR_XOR contours that cancel others like them: {cancelled}"
        )
    if crossing:
        notes.append(f"'{name}': contours that cross were joined; slices: {crossing}")
    return notes


def _references(data: pydicom.Dataset, frames: Sequence[str]) -> tuple[list[str], str]:
    """The series that the regions' frame of reference names, and that frame.

    Raises:
        FileProblem: the regions belong to several frames of reference.
    """
    distinct = sorted(set(frames))
    if len(distinct) > 1:
        raise FileProblem(
            f"The regions of interest were drawn in {len(distinct)} frames of reference: {', '.join(distinct)}.",
            hint="Choose those of one scan with the option roi.",
        )
    frame = distinct[0] if distinct else ""
    uids = [
        str(series.SeriesInstanceUID)
        for reference in data.get("ReferencedFrameOfReferenceSequence") or []
        if not frame or str(reference.get("FrameOfReferenceUID", frame)) == frame
        for study in reference.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
    ]
    return list(dict.fromkeys(uids)), frame


def _in_voxels(contour: Drawn, geometry: Geometry, path: Path) -> Drawn:
    """Convert a contour from mm to voxels of the grid.

    Raises:
        GeometryMismatch: the contour does not lie in a plane of the slices.
    """
    inverse = np.linalg.inv(geometry.affine)
    voxels: NDArray[np.float64] = contour.points @ inverse[:3, :3].T + inverse[:3, 3]
    thickness = geometry.spacing_xyz[2]
    if np.ptp(voxels[:, 2]) * thickness > max(2 * _FLAT_MM, _ON_SLICE * thickness):
        raise GeometryMismatch(
            f"{path}: a contour runs through {np.ptp(voxels[:, 2]):.1f} slices of the scan; only contours drawn within "
            "its slices can be filled.",
            hint="Name the series that it was drawn on with the option series, or convert the structure to a label map "
            "where it was drawn.",
        )
    return Drawn(voxels, contour.cancels)


def _touches(contours: Contours, geometry: Geometry) -> bool:
    """Whether any contour lies at least partly within the grid."""
    depth, height, width = geometry.shape_zyx
    for z, drawn in zip(contours.heights, contours.planes, strict=True):
        for xy in drawn.polygons:
            (x0, y0), (x1, y1) = xy.min(0), xy.max(0)
            if -1 < z < depth and x1 >= 0 and x0 < width and y1 >= 0 and y0 < height:
                return True
    return False
