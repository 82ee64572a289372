"""Resampling of sheared or uneven stacks of slices onto an even grid, slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats.dicom.grid import Stack
from ctseg.volume.geometry import Geometry, as_xyz

_MOST_ADDED = 100
"""Largest ratio of slices, straightened to stored."""
LoadSlice = Callable[[int], NDArray[Any]]


def straight_geometry(stack: Stack) -> Geometry:
    """The even grid that covers all slices, with their axes, pixels and median distance."""
    sx, sy, sz = stack.geometry.spacing_xyz
    shifts = stack.offsets_xyz[:, :2] / (sx, sy)
    low, high = np.floor(shifts.min(0) + 1e-6), np.ceil(shifts.max(0) - 1e-6)
    depth = round(float(stack.offsets_xyz[-1, 2]) / sz) + 1
    if depth > _MOST_ADDED * len(stack.frames):
        raise FileProblem(
            f"{stack.frames[0].header.path.parent}: {len(stack.frames)} slices, mostly {sz:.4g} mm apart, lie over "
            f"{stack.offsets_xyz[-1, 2]:.4g} mm; an even grid would have {depth} slices.",
            hint="Keep the slices that belong together in a folder of their own.",
        )
    _, y, x = stack.geometry.shape_zyx
    origin = stack.geometry.position((low[0], low[1], 0.0))
    return replace(
        stack.geometry,
        shape_zyx=(depth, int(y + high[1] - low[1]), int(x + high[0] - low[0])),
        origin_xyz=as_xyz(origin),
    )


def straight_slice(
    stack: Stack, geometry: Geometry, number: int, load: LoadSlice, outside: float
) -> NDArray[np.float64]:
    """One slice of the even grid: linear between its two neighbours, each shifted into place.

    Args:
        load: reads slice i of the stack as [Y, X].
        outside: value where no slice reaches.
    """
    heights = stack.offsets_xyz[:, 2]
    height = min(number * geometry.spacing_xyz[2], float(heights[-1]))
    above = int(np.clip(np.searchsorted(heights, height, side="left"), 0, len(heights) - 1))
    below = max(above - 1, 0)
    span = heights[above] - heights[below]
    share = (height - heights[below]) / span if span > 0 else 1.0
    parts = [(above, share), (below, 1.0 - share)]
    out = np.zeros(geometry.shape_zyx[1:])
    for index, weight in parts:
        if weight > 1e-6:
            out += weight * _placed(stack, geometry, index, load(index), outside)
    return out


def _placed(
    stack: Stack, geometry: Geometry, index: int, plane: NDArray[Any], outside: float
) -> NDArray[np.float64]:
    """A slice at its position in the even grid, shifted by fractions of a pixel with linear interpolation."""
    start = np.linalg.inv(geometry.matrix * np.asarray(geometry.spacing_xyz)) @ (
        np.asarray(stack.geometry.origin_xyz) - np.asarray(geometry.origin_xyz)
    )
    sx, sy, _ = geometry.spacing_xyz
    shift_x = start[0] + stack.offsets_xyz[index, 0] / sx
    shift_y = start[1] + stack.offsets_xyz[index, 1] / sy
    out = np.full(geometry.shape_zyx[1:], float(outside))
    height, width = plane.shape
    whole_y, whole_x = int(np.floor(shift_y + 1e-6)), int(np.floor(shift_x + 1e-6))
    part_y, part_x = max(shift_y - whole_y, 0.0), max(shift_x - whole_x, 0.0)
    padded = np.pad(plane.astype(np.float64), 1, constant_values=outside)
    rows = (1 - part_y) * padded[1:, :] + part_y * padded[:-1, :]
    both = (1 - part_x) * rows[:, 1:] + part_x * rows[:, :-1]
    bottom, right = min(whole_y + height + 1, out.shape[0]), min(whole_x + width + 1, out.shape[1])
    out[whole_y:bottom, whole_x:right] = both[: bottom - whole_y, : right - whole_x]
    return out
