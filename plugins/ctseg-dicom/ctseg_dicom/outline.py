"""Outlines of masks as closed polygons: voxels whose centre lies inside are exactly those of the mask."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

Polygon = NDArray[np.float64]


def outlines(plane_yx: NDArray[np.integer]) -> Iterator[tuple[int, Polygon]]:
    """The outlines of each value of a slice of a label map, [N, 2] of x and y in pixels, value by value.

    Lines run midway between the centres of pixels inside and outside. A hole is joined with the outline around it by a
    line that is passed there and back (DICOM's keyhole technique), so that one polygon has the area of both.
    """
    values = np.unique(plane_yx)
    values = values[values != 0]
    if not len(values):
        return
    numbers = np.searchsorted(values, plane_yx) + 1
    numbers[plane_yx == 0] = 0
    for number, box in enumerate(find_objects(numbers), start=1):
        if box is None:
            continue
        mask = np.pad(numbers[box] == number, 1).astype(np.float32)
        first = np.array([box[1].start - 1.0, box[0].start - 1.0])
        generator = contour_generator(z=mask, fill_type=FillType.OuterOffset)
        for points, ends in zip(*generator.filled(0.5, 2.0), strict=True):
            rings = [_corners(points[a : b - 1]) for a, b in pairwise(ends.tolist())]
            yield int(values[number - 1]), _keyhole(rings) + first


def _corners(ring: Polygon) -> Polygon:
    """A ring without the points on straight lines between others."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    kept: Polygon = ring[turns != 0]
    return kept


def _keyhole(rings: list[Polygon]) -> Polygon:
    """One polygon from an outline and the holes in it."""
    polygon, *holes = rings
    for hole in holes:
        apart, nearest = cKDTree(polygon).query(hole)
        j = int(apart.argmin())
        i = int(nearest[j])
        around = np.concatenate((hole[j:], hole[: j + 1]))
        polygon = np.concatenate((polygon[: i + 1], around, polygon[i:]))
    return polygon
