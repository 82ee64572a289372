"""Steps that crop to what a scan holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy

from ctseg.data.steps.base import Array, Box, Parts, Record, Zyx, holding
from ctseg.data.steps.track import Tracks, each
from ctseg.errors import ConfigError
from ctseg.volume.components import largest_part
from ctseg.volume.distinct_values import slabs
from ctseg.volume.geometry import Geometry

Masks = Iterable[tuple[int, Array]]
"""The first plane of each slab, and the mask there, bool [Z, Y, X]."""


class ToBox:
    """Base of steps that crop to a box, `box_zyx` in their record."""

    fits: ClassVar[bool] = True

    @property
    def local(self) -> bool:
        return True

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        (z, z1), (y, y1), (x, x1) = record["box_zyx"]
        return geometry.sub((z, y, x), (z1 - z, y1 - y, x1 - x))

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return self.label(image_czyx, geometry, record)

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return label_czyx[(slice(None), *(slice(a, b) for a, b in record["box_zyx"]))]

    weight = label

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record | None:
        return None

    def input_box(self, box: Box, geometry: Geometry, record: Record) -> Box:
        z, y, x = (
            (a + low, b + low) for (a, b), (low, _) in zip(box, record["box_zyx"], strict=True)
        )
        return z, y, x

    def part(
        self, part_czyx: Array, needed: Box, box: Box, geometry: Geometry, record: Record
    ) -> Array:
        return part_czyx

    def track_axes(self, tracks: Tracks, geometry: Geometry, record: Record) -> Tracks:
        box = record["box_zyx"]
        return each(tracks, lambda t: t.shifted(-box[t.axis][0], box[t.axis][1] - box[t.axis][0]))


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

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        return self.fit_parts(lambda: [(0, image_czyx)], geometry)

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record:
        hits = [np.zeros(size, bool) for size in geometry.shape_zyx]
        for start, part in parts():
            inside = np.zeros(part.shape[1:], bool)
            for channel in part:
                inside |= channel != 0 if self.nonzero else channel > self.above
            hits[0][start : start + len(inside)] |= inside.any((1, 2))
            hits[1] |= inside.any((0, 2))
            hits[2] |= inside.any((0, 1))
        return {"box_zyx": _spans(hits, geometry, self.margin_mm, self.margin_zyx)}


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

    @property
    def local(self) -> bool:
        return self.outside is None  # else each voxel depends on the whole body

    def __post_init__(self) -> None:
        _check_margin(self.margin_mm, (0, 0, 0))
        if min(self.opening_zyx) < 1 or any(n % 2 == 0 for n in self.opening_zyx):
            raise ConfigError(f"The opening must be odd numbers of voxels: {self.opening_zyx}.")

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        return self.fit_parts(lambda: _slabs_of(image_czyx), geometry)

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record:
        masks: Masks = ((start, part[0] > self.above) for start, part in parts())
        if max(self.opening_zyx) > 1:
            masks = _eroded(masks, self.opening_zyx)
        hits = [np.zeros(size, bool) for size in geometry.shape_zyx]
        core = largest_part(masks).box_zyx
        if core is not None:
            for hit, (low, high), opening in zip(hits, core, self.opening_zyx, strict=True):
                reach = (
                    opening // 2
                )  # what the erosion took from the body, the dilation brings back
                hit[max(low - reach, 0) : high + reach] = True
        return {"box_zyx": _spans(hits, geometry, self.margin_mm, (0, 0, 0))}

    def body(self, image_czyx: Array) -> Array:
        """Where the body is, bool [Z, Y, X]; nowhere in a scan without a voxel above the threshold."""
        inside: Array = image_czyx[0] > self.above
        opened = max(self.opening_zyx) > 1
        if opened:
            core = scipy.ndimage.binary_erosion(inside, np.ones(self.opening_zyx), border_value=1)
            inside, all_of_it = core, inside
        parts, count = scipy.ndimage.label(inside)
        if count == 0:
            return inside
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            inside = parts == int(sizes.argmax())
        if opened:
            inside = scipy.ndimage.binary_dilation(inside, np.ones(self.opening_zyx)) & all_of_it
        return inside

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        if self.outside is None:
            return self.label(image_czyx, geometry, record)
        body = self.body(image_czyx)
        for z, plane in enumerate(body):
            body[z] = scipy.ndimage.binary_fill_holes(plane)
        box = holding(self.label(image_czyx, geometry, record), [self.outside])
        kept = self.label(body[None], geometry, record)
        return np.where(kept, box, np.asarray(self.outside, box.dtype))


def _check_margin(margin_mm: float, margin_zyx: Zyx) -> None:
    if margin_mm < 0 or min(margin_zyx) < 0:
        raise ConfigError(f"A margin cannot be negative: {margin_mm} mm, {margin_zyx} voxels.")


def _spans(
    hits_zyx: Sequence[Array], geometry: Geometry, margin_mm: float, margin_zyx: Zyx
) -> list[list[int]]:
    """First and last + 1 of what is hit along each axis, with the margin; all of it where nothing is."""
    box = []
    for axis, hit in enumerate(hits_zyx):
        size, hits = len(hit), np.flatnonzero(hit)
        margin = int(np.ceil(margin_mm / geometry.spacing_zyx[axis])) + margin_zyx[axis]
        low, high = (int(hits[0]), int(hits[-1]) + 1) if hits.size else (0, size)
        box.append([max(low - margin, 0), min(high + margin, size)])
    return box


def _slabs_of(image_czyx: Array) -> Iterator[tuple[int, Array]]:
    """A scan in memory in slabs of some million voxels, so that masks stay small."""
    for planes in slabs(image_czyx.shape[1:]):
        yield planes.start, image_czyx[:, planes]


def _eroded(masks: Masks, size_zyx: Zyx) -> Masks:
    """Masks eroded by a box as they come along z; what lies beyond the scan counts as inside."""
    reach, box = size_zyx[0] // 2, np.ones(size_zyx, bool)
    waiting: Array | None = None  # from `reach` planes before `at` on, as erosion needs them
    at = 0
    for start, mask in masks:
        if waiting is None:
            at, waiting = start, np.ones((reach, *mask.shape[1:]), bool)
        waiting = np.concatenate((waiting, mask))
        ready = len(waiting) - 2 * reach
        if ready > 0:
            core = scipy.ndimage.binary_erosion(waiting, box, border_value=1)
            yield at, core[reach : reach + ready]
            at, waiting = at + ready, waiting[ready:].copy()
    if waiting is not None and reach:
        waiting = np.concatenate((waiting, np.ones((reach, *waiting.shape[1:]), bool)))
        core = scipy.ndimage.binary_erosion(waiting, box, border_value=1)
        yield at, core[reach : len(waiting) - reach]
