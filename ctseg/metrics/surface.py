"""Distances between the surfaces of two structures, in mm, weighted by surface area.

Defined by Nikolov et al. (Deep learning to achieve clinically applicable segmentation, 2018): an element of surface
lies in each cube of 2x2x2 voxels that are not all equal (`ctseg.metrics.elements`), and its distance is that from its
cube's centre to the nearest centre of such a cube of the other structure. A structure ends where the scan ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.metrics.elements import areas
from ctseg.metrics.nearest import Indices, SearchGrid, nearest

ROUNDING = 1e-12
"""Tolerance for rounding when a fraction of area is compared with a percentage."""
SPACING_ROUNDING = 1e-6
"""Tolerance for rounding when a distance is compared with a length: headers hold spacings as float32."""


@dataclass(frozen=True)
class SurfaceSpread:
    """Distances from one surface to another.

    Attributes:
        distances: each distance that occurs, in mm, ascending.
        areas: the area of the surface at that distance, in mm^2.
    """

    distances: NDArray[np.float64]
    areas: NDArray[np.float64]

    @property
    def area(self) -> float:
        return float(self.areas.sum())

    @property
    def mean(self) -> float:
        """The mean distance in mm."""
        return float(self.distances @ self.areas) / self.area

    def percentile(self, percent: float) -> float:
        """The smallest distance in mm within which that percentage of the surface lies."""
        share = np.cumsum(self.areas) / self.areas.sum()
        at = int(np.searchsorted(share, percent / 100 * (1 - ROUNDING)))
        return float(self.distances[min(at, len(self.distances) - 1)])

    def within(self, tolerance_mm: float) -> float:
        """The area in mm^2 within a tolerance, at a distance that equals it included."""
        return float(self.areas[self.distances <= tolerance_mm * (1 + SPACING_ROUNDING)].sum())


@dataclass(frozen=True)
class SurfaceDistances:
    """The distances in both directions.

    Attributes:
        predicted: from the predicted surface to the reference.
        reference: from the reference surface to the prediction.
    """

    predicted: SurfaceSpread
    reference: SurfaceSpread

    @property
    def mean(self) -> float:
        """The mean surface distance in mm: over both surfaces together, weighted by area."""
        both = (self.predicted, self.reference)
        return sum(float(s.distances @ s.areas) for s in both) / sum(s.area for s in both)

    def hausdorff(self, percent: float = 100.0) -> float:
        """The larger of both directions' distances in mm within which `percent` of the surface lies."""
        return max(self.predicted.percentile(percent), self.reference.percentile(percent))

    def dice(self, tolerance_mm: float) -> float:
        """The surface Dice: the fraction of both surfaces that lies within the tolerance of the other, 0..1."""
        inside = self.predicted.within(tolerance_mm) + self.reference.within(tolerance_mm)
        return inside / (self.predicted.area + self.reference.area)

    def overlap(self, tolerance_mm: float) -> tuple[float, float]:
        """The fractions of the predicted and of the reference surface within the tolerance of the other, 0..1."""
        one, two = self.predicted, self.reference
        return one.within(tolerance_mm) / one.area, two.within(tolerance_mm) / two.area


def surface_distances(
    predicted: NDArray[Any],
    reference: NDArray[Any],
    spacing_zyx: Sequence[float],
    valid: NDArray[Any] | None = None,
) -> SurfaceDistances | None:
    """The distances between the surfaces of two boolean maps [Z, Y, X].

    Args:
        spacing_zyx: spacing in mm.
        valid: bool [Z, Y, X], the voxels that count. Surface that touches another voxel counts on neither side,
            since the course of the structure is unknown there.

    Returns:
        None where either map has no surface that counts.

    Raises:
        BadInput: the shapes differ.
    """
    if predicted.shape != reference.shape or predicted.ndim != 3:
        raise BadInput(
            f"The maps have the shapes {predicted.shape} and {reference.shape}; both must be the same [Z, Y, X]."
        )
    one, two = predicted.astype(bool, copy=False), reference.astype(bool, copy=False)
    if valid is not None:
        one, two = one & valid, two & valid
    box = box_around(one | two)
    if box is None:
        return None
    one, two = one[box], two[box]
    open_ends = None if valid is None else _states(~valid[box]) == 0
    (depth, height, width), (z, y, x) = one.shape, spacing_zyx
    grid = SearchGrid((depth + 1, height + 1, width + 1), (float(z), float(y), float(x)))
    table = areas(spacing_zyx)
    elements = [_elements(mask, grid, open_ends) for mask in (one, two)]
    if not all(len(points) for points, _, _ in elements):
        return None
    (points_a, map_a, states_a), (points_b, map_b, states_b) = elements
    return SurfaceDistances(
        _spread(nearest(points_a, map_b, points_b, grid), table[states_a]),
        _spread(nearest(points_b, map_a, points_a, grid), table[states_b]),
    )


def _elements(
    mask: NDArray[np.bool_], grid: SearchGrid, counted: NDArray[np.bool_] | None
) -> tuple[Indices, NDArray[np.bool_], NDArray[np.uint8]]:
    """The surface elements of a structure: flat indices and marks on the grid, and the state of each cube."""
    states = _states(mask)
    surface = (states + np.uint8(1)) > 1  # neither 0 nor 255, which wraps round to 0
    if counted is not None:
        surface &= counted
    marks, places = grid.marked(surface)
    return places, marks, states[surface]


def _states(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The state of each cube of 2x2x2 voxels, uint8 [Z + 1, Y + 1, X + 1]; voxels outside the map are 0.

    Bit 7 is the voxel at (0, 0, 0) of the cube, bit 6 that next to it along x, bit 5 along y, bit 3 along z.
    """
    padded = np.zeros([n + 2 for n in mask.shape], np.uint8)
    padded[1:-1, 1:-1, 1:-1] = mask
    rows = (padded[..., :-1] << 1) | padded[..., 1:]
    squares = (rows[:, :-1] << 2) | rows[:, 1:]
    return np.asarray((squares[:-1] << 4) | squares[1:])


def _spread(
    ranked: tuple[Indices, NDArray[np.float64]], element_areas: NDArray[np.float64]
) -> SurfaceSpread:
    rank, distances = ranked
    total: NDArray[np.float64] = np.bincount(rank, element_areas, len(distances)).astype(np.float64)
    present = total > 0
    return SurfaceSpread(distances[present], total[present])


def box_around(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box around the true voxels, one voxel wider where the map allows it; None without true voxels."""
    out = []
    for axis, axes in enumerate(((1, 2), (0, 2), (0, 1))):
        along = np.flatnonzero(mask.any(axis=axes))
        if not len(along):
            return None
        out.append(slice(max(int(along[0]) - 1, 0), min(int(along[-1]) + 2, mask.shape[axis])))
    return out[0], out[1], out[2]
