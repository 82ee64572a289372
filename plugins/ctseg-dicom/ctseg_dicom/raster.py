"""Conversion of contours to voxels: polygons filled by the even-odd rule, and slices between two contours."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

_CROSSINGS = 4_000_000
"""Crossings of edges and rows that are processed together."""


def fill(contours: Iterable[NDArray[np.float64]], shape_yx: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels [Y, X] whose centre is inside an odd number of contours.

    So a contour inside another one is a hole; a keyhole contour, which runs to its hole and back along one line,
    is correct, too. Left and upper borders count as inside, right and lower ones as outside: regions that share a
    border never share a pixel.

    Args:
        contours: polygons [N, 2] of x and y in pixels; the centre of pixel (i, j) is at x = j, y = i. The last
            point is joined to the first one.
    """
    toggles = np.zeros((shape_yx[0], shape_yx[1] + 1), np.uint32)
    for contour in contours:
        _toggle(toggles, contour)
    return _inside(toggles)


def fill_rows(
    contour: NDArray[np.float64], shape_yx: tuple[int, int]
) -> tuple[slice, NDArray[np.bool_]]:
    """One contour, filled as by `fill`: its rows, and their pixels."""
    low, high = contour[:, 1].min(), contour[:, 1].max()
    first, last = (int(v) for v in np.ceil([low, high]).clip(0, shape_yx[0]))
    toggles = np.zeros((last - first, shape_yx[1] + 1), np.uint32)
    _toggle(toggles, contour - (0, first))
    return slice(first, last), _inside(toggles)


def _toggle(toggles: NDArray[np.uint32], contour: NDArray[np.float64]) -> None:
    """Count, for each row, the edges of a contour that cross it left of each pixel's centre."""
    height, width = toggles.shape[0], toggles.shape[1] - 1
    after = np.roll(contour, -1, axis=0)
    down = (contour[:, 1] <= after[:, 1])[:, None]
    # from the upper end down, so that an edge drawn there and back gives equal numbers
    (x0, y0), (x1, y1) = np.where(down, contour, after).T, np.where(down, after, contour).T
    # an edge crosses the rows from its upper end, included, to the lower one, excluded
    first = np.ceil(y0).clip(0, height).astype(np.int64)
    last = np.ceil(y1).clip(0, height).astype(np.int64)
    counts = last - first
    blocks = 1 + int(counts.sum()) // _CROSSINGS
    for edges in np.array_split(np.flatnonzero(counts), blocks):
        many = counts[edges]
        edge = np.repeat(edges, many)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(many) - many, many) + first[edge]
        share = (row - y0[edge]) / (y1[edge] - y0[edge])
        column = np.ceil(x0[edge] + share * (x1[edge] - x0[edge])).clip(0, width).astype(np.int64)
        np.add.at(toggles, (row, column), 1)


def _inside(toggles: NDArray[np.uint32]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (np.cumsum(toggles, axis=1)[:, :-1] % 2).astype(bool)
    return inside


def between(one: NDArray[np.bool_], two: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The shape at a fraction of the distance from one mask to another one.

    Shape-based interpolation: signed distances to the two borders are averaged; positive values are inside (Raya and
    Udupa 1990, doi 10.1109/42.52980).
    """
    mixed: NDArray[np.bool_] = (1 - share) * _signed(one) + share * _signed(two) > 0
    return mixed


def _signed(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the border in pixels, positive inside; the border runs halfway between two centres."""
    if not mask.any():
        return np.full(mask.shape, -float(sum(mask.shape)))
    if mask.all():
        return np.full(mask.shape, float(sum(mask.shape)))
    inner: NDArray[np.float64] = distance_transform_edt(mask)
    outer: NDArray[np.float64] = distance_transform_edt(~mask)
    return np.where(mask, inner - 0.5, 0.5 - outer)
