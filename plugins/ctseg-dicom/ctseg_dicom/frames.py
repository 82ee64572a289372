"""The frames of a DICOM SEG: their segments, positions and pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats import grids
from ctseg.volume.formats.dicom.frames import LARGE_PLANE, MOST_PACKED
from ctseg.volume.geometry import Geometry
from ctseg_dicom.grid_note import stored_grid

_TOLERANCE = 0.02
"""Largest deviation of positions from an even grid, as a fraction of the slice distance, as for image series."""
_MOST_SLICES = 65536


@dataclass(frozen=True)
class Frame:
    """One frame: its number in the file, its segment (None in a label map) and its slice on the file's own grid."""

    index: int
    segment: int | None
    z: int


def layout(data: pydicom.Dataset, path: Path) -> tuple[Geometry, list[Frame]]:
    """The grid of the frames, and the frames; empty slices may have none.

    Raises:
        FileProblem: frames without a position in the patient, or not on an even grid.
    """
    shared = data.SharedFunctionalGroupsSequence[0]
    groups = data.PerFrameFunctionalGroupsSequence
    count = int(data.NumberOfFrames)
    if len(groups) != count or count < 1:
        raise ValueError(f"it describes {len(groups)} of {count} frames")

    def group(number: int, keyword: str) -> pydicom.Dataset:
        for owner in (groups[number], shared):
            if keyword in owner:
                sequence_item: pydicom.Dataset = owner[keyword].value[0]
                return sequence_item
        raise FileProblem(
            f"{path}: frame {number + 1} has no {keyword}, so its place in the patient is unknown.",
            hint="Segmentations of slide microscopy or of single pictures are not volumes.",
        )

    cosines = np.array(group(0, "PlaneOrientationSequence").ImageOrientationPatient, np.float64)
    for number in range(1, count):
        cosines_of_frame = group(number, "PlaneOrientationSequence").ImageOrientationPatient
        if np.abs(np.array(cosines_of_frame, np.float64) - cosines).max() > 1e-3:
            raise FileProblem(f"{path}: the frames 1 and {number + 1} differ in orientation.")
    positions = np.array(
        [group(n, "PlanePositionSequence").ImagePositionPatient for n in range(count)], np.float64
    )
    measures = group(0, "PixelMeasuresSequence")
    row, column = cosines[:3], cosines[3:]
    matrix = grids.orthonormal(np.stack([row, column, np.cross(row, column)], axis=1))
    spacing = [float(v) for v in measures.PixelSpacing]
    rows, columns = int(data.Rows), int(data.Columns)
    along = positions @ matrix[:, 2]
    gap = _gap(along, measures)
    geometry = grids.make_geometry(
        path,
        (1, rows, columns),
        (spacing[1], spacing[0], gap),
        positions[int(along.argmin())].tolist(),
        matrix,
    )
    stored = stored_grid(data, geometry, positions)
    if stored is not None:
        geometry, slices = stored
    else:
        slices = _even_slices(positions, matrix[:, 2], gap, path)
        geometry = replace(geometry, shape_zyx=(int(slices.max()) + 1, rows, columns))
    by_segment = data.SegmentationType != "LABELMAP"
    frames = [
        Frame(
            n,
            int(group(n, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            if by_segment
            else None,
            int(slices[n]),
        )
        for n in range(count)
    ]
    return geometry, frames


def _even_slices(
    positions: NDArray[np.float64], normal: NDArray[np.float64], gap: float, path: Path
) -> NDArray[np.int64]:
    """The slice of each frame on an even grid that begins at the first one.

    Raises:
        FileProblem: the frames do not lie on it.
    """
    along = positions @ normal
    steps = (along - along.min()) / gap
    ideal = positions[int(along.argmin())] + np.outer(np.rint(steps) * gap, normal)
    if np.linalg.norm(positions - ideal, axis=1).max() > _TOLERANCE * gap:
        raise FileProblem(
            f"{path}: the frames lie on no even grid of slices {gap:.4g} mm apart.",
            hint="It may be of a scan with a tilted gantry or uneven slices; convert it with its scan.",
        )
    if steps.max() >= _MOST_SLICES:
        raise FileProblem(
            f"{path}: its frames lie {np.ptp(along):.4g} mm apart and its slices {gap:.4g} mm, which would be "
            f"{steps.max():.3g} slices.",
            hint="Its positions or its slice distance are damaged; copy the file again.",
        )
    return np.rint(steps).astype(np.int64)


def _gap(along: NDArray[np.float64], measures: pydicom.Dataset) -> float:
    """The slice distance: from the header if the positions agree, else the smallest one between frames."""
    header_gap = float(measures.get("SpacingBetweenSlices") or 0)
    gaps = np.diff(np.unique(np.round(along, 4)))
    gaps = gaps[gaps > 1e-3]
    if not len(gaps):
        return header_gap or float(measures.get("SliceThickness") or 1.0)
    steps = gaps / header_gap if header_gap > 0 else np.zeros(0)
    if len(steps) and np.abs(steps - np.rint(steps)).max() < _TOLERANCE and steps.min() > 0.5:
        return float(gaps.sum() / np.rint(steps).sum())
    return float(gaps.min())


class Pixels:
    """The pixels of single frames, decoded on request.

    Args:
        data: the whole object.
        path: for messages.
        threshold: for FRACTIONAL objects, the fraction from which on a voxel belongs to the segment.
    """

    def __init__(self, data: pydicom.Dataset, path: Path, threshold: float) -> None:
        self._data = data
        self._shape = int(data.Rows), int(data.Columns)
        self._bits = int(data.BitsAllocated)
        self._packed = not data.file_meta.TransferSyntaxUID.is_compressed
        self._least = 1.0
        if data.SegmentationType == "FRACTIONAL":
            self._least = threshold * int(data.MaximumFractionalValue)
        if self._packed:
            self._bytes = np.frombuffer(data.PixelData, np.uint8)
            needed = -(
                -int(data.NumberOfFrames) * self._shape[0] * self._shape[1] * self._bits // 8
            )
            if len(self._bytes) < needed:
                raise EOFError(f"it has {len(self._bytes)} of {needed} bytes of pixels")
        plane = self._shape[0] * self._shape[1]
        if not self._packed and plane >= LARGE_PLANE and plane > MOST_PACKED * len(data.PixelData):
            raise ValueError(f"it says {plane} voxels a frame and has {len(data.PixelData)} bytes")
        if self._bits not in (1, 8, 16):
            raise BadInput(f"{path} has pixels of {self._bits} bits; a SEG has 1, 8 or 16.")

    def stored(self, index: int) -> NDArray[Any]:
        """A frame [Y, X] as stored."""
        size = self._shape[0] * self._shape[1]
        if not self._packed:
            decoded: NDArray[Any] = pixel_array(self._data, index=index)
            return decoded.reshape(self._shape)
        if self._bits == 1:  # frames follow each other bit by bit, without padding to whole bytes
            start, stop = index * size, (index + 1) * size
            bits = np.unpackbits(self._bytes[start // 8 : -(-stop // 8)], bitorder="little")
            return bits[start % 8 : start % 8 + size].reshape(self._shape)
        width = self._bits // 8
        part = self._bytes[index * size * width : (index + 1) * size * width]
        return part.view(f"<u{width}").reshape(self._shape)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """The voxels of a frame that belong to its segment."""
        mask: NDArray[np.bool_] = self.stored(index) >= max(self._least, 1.0)
        return mask
