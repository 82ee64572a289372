"""Steps that crop to what a scan holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from ctseg.data.steps.base import Array, Record, Zyx, holding
from ctseg.errors import ConfigError
from ctseg.volume.geometry import Geometry


class ToBox:
    """Base of steps that crop to a box, `box_zyx` in their record."""

    looks: ClassVar[bool] = True

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        (z, z1), (y, y1), (x, x1) = record["box_zyx"]
        return geometry.sub((z, y, x), (z1 - z, y1 - y, x1 - x))

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return self.label(image_czyx, geometry, record)

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return label_czyx[(slice(None), *(slice(a, b) for a, b in record["box_zyx"]))]

    weight = label

    def undo(self, array_czyx: Array, geometry: Geometry, record: Record, fill: Array) -> Array:
        out = np.empty((array_czyx.shape[0], *geometry.shape_zyx), array_czyx.dtype)
        out[:] = fill.astype(array_czyx.dtype)[:, None, None, None]
        out[(slice(None), *(slice(a, b) for a, b in record["box_zyx"]))] = array_czyx
        return out


@dataclass(frozen=True)
class Crop(ToBox):
    """Crop to the box of voxels above a threshold in any channel, with a margin.

    Attributes:
        above: `0` crops to non-zero voxels of skull-stripped MR.
        margin_mm: kept around the box.
        nonzero: crop to voxels other than 0 instead, negative ones too, as nnU-Net.
        margin_zyx: voxels kept around the box, in addition.
    """

    kind: ClassVar[str] = "crop"
    above: float = 0.0
    margin_mm: float = 0.0
    nonzero: bool = False
    margin_zyx: Zyx = (0, 0, 0)

    def __post_init__(self) -> None:
        _check_margin(self.margin_mm, self.margin_zyx)

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        inside = np.zeros(image_czyx.shape[1:], bool)
        for channel in image_czyx:
            inside |= channel != 0 if self.nonzero else channel > self.above
        return {"box_zyx": _box(inside, geometry, self.margin_mm, self.margin_zyx)}


@dataclass(frozen=True)
class CropToBody(ToBox):
    """Crop to the body: the largest connected part above a threshold, so that table and cushions go.

    Attributes:
        above: of the first channel; -500 HU parts tissue from air.
        margin_mm: kept around the body's box.
        opening_zyx: voxels (odd; 1 for none) by which the part above the threshold is opened first, where the body
            touches the table.
        outside: value that replaces what lies in the box but outside of the body (air around it, the table), in
            the unit of the scan; none leaves it. Holes of the body in slices along z, such as lungs, are body.
    """

    kind: ClassVar[str] = "crop_to_body"
    above: float = -500.0
    margin_mm: float = 0.0
    opening_zyx: Zyx = (1, 1, 1)
    outside: float | None = None

    def __post_init__(self) -> None:
        _check_margin(self.margin_mm, (0, 0, 0))
        if min(self.opening_zyx) < 1 or any(n % 2 == 0 for n in self.opening_zyx):
            raise ConfigError(f"The opening must be odd numbers of voxels: {self.opening_zyx}.")

    def look(self, image_czyx: Array, geometry: Geometry) -> Record:
        return {"box_zyx": _box(self.body(image_czyx), geometry, self.margin_mm, (0, 0, 0))}

    def body(self, image_czyx: Array) -> Array:
        """Where the body is, bool [Z, Y, X]; nowhere in a scan without a voxel above the threshold."""
        inside: Array = image_czyx[0] > self.above
        opened = max(self.opening_zyx) > 1
        if opened:
            core = ndimage.binary_erosion(inside, np.ones(self.opening_zyx), border_value=1)
            inside, all_of_it = core, inside
        parts, count = ndimage.label(inside)
        if count == 0:
            return inside
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            inside = parts == int(sizes.argmax())
        if opened:
            inside = ndimage.binary_dilation(inside, np.ones(self.opening_zyx)) & all_of_it
        return inside

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        if self.outside is None:
            return self.label(image_czyx, geometry, record)
        body = self.body(image_czyx)
        for z, plane in enumerate(body):
            body[z] = ndimage.binary_fill_holes(plane)
        box = holding(self.label(image_czyx, geometry, record), [self.outside])
        kept = self.label(body[None], geometry, record)
        return np.where(kept, box, np.asarray(self.outside, box.dtype))


def _check_margin(margin_mm: float, margin_zyx: Zyx) -> None:
    if margin_mm < 0 or min(margin_zyx) < 0:
        raise ConfigError(f"A margin cannot be negative: {margin_mm} mm, {margin_zyx} voxels.")


def _box(inside: Array, geometry: Geometry, margin_mm: float, margin_zyx: Zyx) -> list[list[int]]:
    """First and last + 1 of the voxels inside, per axis, with the margin; all where there is none."""
    box = []
    for axis, size in enumerate(inside.shape):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(np.any(inside, axis=others))
        margin = int(np.ceil(margin_mm / geometry.spacing_zyx[axis])) + margin_zyx[axis]
        low, high = (int(hits[0]), int(hits[-1]) + 1) if hits.size else (0, size)
        box.append([max(low - margin, 0), min(high + margin, size)])
    return box
