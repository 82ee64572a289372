"""Slices of a scan as radiologists view them: canonical axes, right aspect ratio, the slices that show the most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import Task
from ctseg.task import masks
from ctseg.volume.geometry import Geometry, check_same
from ctseg.volume.volume import Volume

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
Window = tuple[float, float]
SOFT_TISSUE: Window = (-160.0, 240.0)
"""Window of Hounsfield units for soft tissue: level 40, width 400."""
WINDOWS: Mapping[str, Window] = MappingProxyType(
    {
        "soft tissue": SOFT_TISSUE,
        "lung": (-1350.0, 150.0),
        "bone": (-450.0, 1050.0),
        "brain": (0.0, 80.0),
    }
)
"""Windows of Hounsfield units by name, as black and white."""


@dataclass(frozen=True)
class Look:
    """How scans and labels are shown.

    Attributes:
        window: grey values shown as black and white; by default the soft-tissue window for Hounsfield units
            and percentiles for other scans.
        channel: index of the channel to show.
        fill: opacity of the labels inside their contours, 0..1.
    """

    window: Window | None = None
    channel: int = 0
    fill: float = 0.35


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


def best_point(task: Task, label_zyx: NDArray[Any]) -> tuple[int, int, int]:
    """The slice of each axis (z, y, x) that shows the most of every label, with equal weight for small and large ones.

    Each label's area is divided by its largest area along the axis, and the quotients are added. Among equal slices
    the one nearest their middle is chosen; without foreground it is the centre of the array.
    """
    present = [mask for mask in masks(task, label_zyx).values() if mask.any()]
    point = []
    for axis, length in enumerate(label_zyx.shape[-3:]):
        others = tuple(i for i in range(3) if i != axis)
        shares = np.zeros(length)
        for mask in present:
            area = mask.sum(axis=others)
            shares += area / area.max()
        best = np.flatnonzero(shares >= shares.max() - 1e-9)
        point.append(int(best[len(best) // 2]))
    return point[0], point[1], point[2]


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


def on_grid(volume: Volume, layers: Mapping[str, Volume | NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The layers as canonical arrays [Z, Y, X], checked to lie on the scan's grid.

    Raises:
        GeometryMismatch: a layer is a volume on another grid.
        BadInput: an array has another shape.
    """
    arrays = {}
    for name, layer in layers.items():
        if isinstance(layer, Volume):
            check_same(volume.geometry, layer.geometry, names=("the scan", f"the {name}"))
        array = layer.array if isinstance(layer, Volume) else layer
        if array.shape[-3:] != volume.geometry.shape_zyx:
            raise BadInput(
                f"The {name} has the shape {array.shape} (z, y, x), the scan {volume.geometry.shape_zyx}."
            )
        arrays[name] = canonical(array, volume.geometry)
    return arrays


def first_with_foreground(task: Task, arrays: Iterable[NDArray[Any]]) -> NDArray[Any] | None:
    """The first label map with foreground; the first one if none has any."""
    listed = list(arrays)
    for array in listed:
        if any(mask.any() for mask in masks(task, array).values()):
            return array
    return listed[0] if listed else None
