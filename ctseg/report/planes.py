"""Which slices of a scan show the most, and how they look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.specs import Task
from ctseg.task import masks
from ctseg.volume.geometry import check_same
from ctseg.volume.preview.planes import PLANES as PLANES
from ctseg.volume.preview.planes import SOFT_TISSUE as SOFT_TISSUE
from ctseg.volume.preview.planes import Plane as Plane
from ctseg.volume.preview.planes import Slice as Slice
from ctseg.volume.preview.planes import Window as Window
from ctseg.volume.preview.planes import canonical as canonical
from ctseg.volume.preview.planes import canonical_spacing_zyx as canonical_spacing_zyx
from ctseg.volume.preview.planes import cut as cut
from ctseg.volume.preview.planes import window_of as window_of
from ctseg.volume.volume import Volume

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
