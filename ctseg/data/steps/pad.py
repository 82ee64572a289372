"""Steps that crop or pad about the centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ctseg.data.steps.base import Array, Box, NoFit, Record, Zyx, holding, per_channel
from ctseg.data.steps.track import Tracks, each
from ctseg.errors import ConfigError
from ctseg.volume.geometry import Geometry

Side = Literal["front", "back"]


class Placed(NoFit):
    """Base of steps that put the scan into another shape about its centre."""

    value: tuple[float, ...]
    larger: Side

    def shape_after(self, shape_zyx: Zyx) -> Zyx:
        raise NotImplementedError

    def _before(self, geometry: Geometry) -> list[tuple[int, int, int]]:
        """Per axis: voxels added in front (negative: cropped), and the sizes before and after."""
        out = []
        for size, new in zip(geometry.shape_zyx, self.shape_after(geometry.shape_zyx), strict=True):
            difference = abs(new - size)
            half = (difference + (self.larger == "front")) // 2
            out.append((half if new >= size else -half, size, new))
        return out

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        (z, _, nz), (y, _, ny), (x, _, nx) = self._before(geometry)
        return geometry.sub((-z, -y, -x), (nz, ny, nx))

    def _slices(self, geometry: Geometry) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where the part that both grids share lies before the step, and after it."""
        before, after = [slice(None)], [slice(None)]
        for front, size, new in self._before(geometry):
            length = min(size, new)
            before.append(slice(max(-front, 0), max(-front, 0) + length))
            after.append(slice(max(front, 0), max(front, 0) + length))
        return tuple(before), tuple(after)

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        if self.shape_after(geometry.shape_zyx) != image_czyx.shape[1:]:
            image_czyx = holding(image_czyx, self.value)
        return self._placed(image_czyx, geometry, per_channel(self.value))

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return self._placed(label_czyx, geometry, np.zeros((1, 1, 1, 1)))

    weight = label

    def _placed(self, array_czyx: Array, geometry: Geometry, value: Array) -> Array:
        shape = self.shape_after(geometry.shape_zyx)
        if shape == array_czyx.shape[1:]:
            return array_czyx
        before, after = self._slices(geometry)
        out = np.empty((array_czyx.shape[0], *shape), array_czyx.dtype)
        out[:] = value.astype(array_czyx.dtype)
        out[after] = array_czyx[before]
        return out

    def input_box(self, box: Box, geometry: Geometry, record: Record) -> Box:
        """At least a voxel, where the box lies in the padding altogether."""
        spans = []
        for (a, b), (front, size, _) in zip(box, self._before(geometry), strict=True):
            low = min(max(a - front, 0), size - 1)
            spans.append((low, max(min(b - front, size), low + 1)))
        return spans[0], spans[1], spans[2]

    def part(
        self, part_czyx: Array, needed: Box, box: Box, geometry: Geometry, record: Record
    ) -> Array:
        if self.shape_after(geometry.shape_zyx) != geometry.shape_zyx:
            part_czyx = holding(part_czyx, self.value)
        sides = list(zip(box, self._before(geometry), strict=True))
        if not any(front or b > size for (_, b), (front, size, _) in sides):
            return part_czyx  # nothing is moved, added or taken away here
        out = np.empty((part_czyx.shape[0], *(b - a for a, b in box)), part_czyx.dtype)
        out[:] = per_channel(self.value).astype(part_czyx.dtype)
        after, before = [slice(None)], [slice(None)]
        for (a, b), (c, d), (front, size, _) in zip(
            box, needed, self._before(geometry), strict=True
        ):
            low, high = max(a - front, 0), min(b - front, size)  # on the grid before
            if high <= low:
                return out
            after.append(slice(low + front - a, high + front - a))
            before.append(slice(low - c, min(high, d) - c))
        out[tuple(after)] = part_czyx[tuple(before)]
        return out

    def track_axes(self, tracks: Tracks, geometry: Geometry, record: Record) -> Tracks:
        moves = self._before(geometry)
        return each(tracks, lambda t: t.shifted(moves[t.axis][0], moves[t.axis][2]))


@dataclass(frozen=True)
class CropOrPad(Placed):
    """Crop or pad to a shape about the centre, as TorchIO's CropOrPad places it.

    A value that no scan holds shows a network where the scan ends.

    Attributes:
        shape_zyx: voxels after the step, 0 keeps an axis as it is.
        value: put around the scan, one number a channel, in the unit that the scan has at this step.
        crop: whether larger axes are cropped; else they stay as they are.
        larger: where the odd voxel goes or is taken; TorchIO's `front`, or `back` as MONAI's SpatialPad.
    """

    kind: ClassVar[str] = "crop_or_pad"
    shape_zyx: Zyx = (0, 0, 0)
    value: tuple[float, ...] = (0.0,)
    crop: bool = True
    larger: Side = "front"

    def __post_init__(self) -> None:
        if min(self.shape_zyx) < 0:
            raise ConfigError(f"A shape cannot be negative: {self.shape_zyx}.")

    def shape_after(self, shape_zyx: Zyx) -> Zyx:
        z, y, x = (
            wanted if wanted and (self.crop or wanted > size) else size
            for size, wanted in zip(shape_zyx, self.shape_zyx, strict=True)
        )
        return z, y, x


@dataclass(frozen=True)
class PadToMultiple(Placed):
    """Pad each axis to the next multiple of a number, as MONAI's DivisiblePad.

    Attributes:
        of_zyx: voxels.
        value: put around the scan, one number a channel, in the unit that the scan has at this step.
        larger: where the odd voxel goes.
    """

    kind: ClassVar[str] = "pad_to_multiple"
    of_zyx: Zyx = (16, 16, 16)
    value: tuple[float, ...] = (0.0,)
    larger: Side = "back"

    def __post_init__(self) -> None:
        if min(self.of_zyx) < 1:
            raise ConfigError(f"Axes are padded to multiples of 1 or more: {self.of_zyx}.")

    def shape_after(self, shape_zyx: Zyx) -> Zyx:
        z, y, x = (-(-size // of) * of for size, of in zip(shape_zyx, self.of_zyx, strict=True))
        return z, y, x
