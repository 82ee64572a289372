"""Slices of a scan as radiologists view them: canonical axes, right aspect ratio, a window of grey values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctseg.volume.geometry import Geometry

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
Window = tuple[float, float]
SOFT_TISSUE: Window = (-160.0, 240.0)
"""Window of Hounsfield units for soft tissue: level 40, width 400."""


@dataclass(frozen=True)
class Slice:
    """One slice, ready to be shown with the origin at the upper left.

    Attributes:
        pixels: [rows, columns].
        pixel_mm: height and width of a pixel.
        sides: directions at the left, right, top and bottom of the picture.
    """

    pixels: NDArray[Any]
    pixel_mm: tuple[float, float]
    sides: tuple[str, str, str, str]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the picture."""
        rows, columns = self.pixels.shape[-2:]
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A view of [..., Z, Y, X] whose x runs to the left, y to the back and z to the head, as nearly as possible.

    Axes are permuted and flipped, never interpolated: an oblique scan stays oblique.
    """
    order, signs = _order(geometry)
    lead = array.ndim - 3
    moved = array.transpose(*range(lead), *(lead + axis for axis in order))
    z, y, x = signs
    return moved[..., ::z, ::y, ::x]


def canonical_spacing_zyx(geometry: Geometry) -> tuple[float, float, float]:
    """The spacing in mm of the view that `canonical` returns."""
    z, y, x = (geometry.spacing_zyx[axis] for axis in _order(geometry)[0])
    return z, y, x


def array_axis(plane: Plane, geometry: Geometry) -> int:
    """The array axis (0 is Z) along which the slices of a plane follow each other."""
    return _order(geometry)[0][PLANES.index(plane)]


def _order(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For space axis z, y, x the nearest array axis (0 is Z) and its sign."""
    axis_of = {
        space: (2 - index, sign) for index, (space, sign) in enumerate(geometry.nearest_axes())
    }
    (z, y, x) = (axis_of[space] for space in (2, 1, 0))
    return (z[0], y[0], x[0]), (z[1], y[1], x[1])


def cut(
    array_zyx: NDArray[Any], spacing_zyx: tuple[float, float, float], plane: Plane, index: int
) -> Slice:
    """One slice of a canonical array in the radiological convention: the patient's right on the left.

    Args:
        array_zyx: as `canonical` returns it.
        index: along z for axial, y for coronal, x for sagittal slices.
    """
    z, y, x = spacing_zyx
    if plane == "axial":
        return Slice(array_zyx[index], (y, x), ("R", "L", "A", "P"))
    if plane == "coronal":
        return Slice(array_zyx[::-1, index], (z, x), ("R", "L", "S", "I"))
    return Slice(array_zyx[::-1, :, index], (z, y), ("A", "P", "S", "I"))


def window_of(image: NDArray[Any]) -> Window:
    """Grey values to show as black and white.

    Hounsfield units (recognised by air: values of -500 or below, and none out of range) get the soft-tissue window,
    other scans their 0.5 and 99.5 percentiles.
    """
    sample = image[tuple(slice(None, None, max(1, n // 64)) for n in image.shape)]
    values = sample[np.isfinite(sample)].astype(np.float64)
    if values.size == 0:
        return 0.0, 1.0
    if -5000 < values.min() <= -500 and values.max() < 40000:
        return SOFT_TISSUE
    low, high = np.percentile(values, (0.5, 99.5))
    if high <= low:
        low, high = values.min(), values.max()
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)
