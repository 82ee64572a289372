"""What a preprocessing step is.

A step turns a scan [C, Z, Y, X] on one grid into one on another. What it found by looking at the scan (a crop box,
a case's mean) is its record, so that labels and predictions follow the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ctseg.data.steps.track import Tracks
from ctseg.errors import ConfigError
from ctseg.volume.geometry import Geometry

Array = NDArray[Any]
Record = dict[str, Any]
Parts = Callable[[], Iterable[tuple[int, Array]]]
"""Gives a scan anew at each call, as (first slice, [C, slices, Y, X]) along z."""
Zyx = tuple[int, int, int]
Span = tuple[int, int]
Box = tuple[Span, Span, Span]
"""First voxel and the one past the last along z, y, x."""


class Step(Protocol):
    """One step. Steps that leave the grid alone implement `look` and `image` only (see `OnValues`).

    Large scans are taken through box by box: `needed` and `part` give the same voxels as `image` does.
    """

    kind: ClassVar[str]
    fits: ClassVar[bool]
    """Whether `look` finds anything; where not, the step's numbers are the same for every scan."""

    @property
    def local(self) -> bool:
        """Whether a box of the scan after the step can be had from a box before it (and the record)."""
        ...

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        """What the step must know about this scan, as plain JSON data."""
        ...

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record | None:
        """The same from a scan that comes slab by slab; None where the step must see it whole."""
        ...

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        """The grid after the step."""
        ...

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        """The scan after the step, float32."""
        ...

    def weight(self, weight_czyx: Array, geometry: Geometry, record: Record) -> Array:
        """A map of non-negative numbers moved as the scan is, its values left alone."""
        ...

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        """An integer map after the step."""
        ...

    def input_box(self, box: Box, geometry: Geometry, record: Record) -> Box:
        """The box before the step from which one after it is made."""
        ...

    def part(
        self, part_czyx: Array, needed: Box, box: Box, geometry: Geometry, record: Record
    ) -> Array:
        """A box of the scan after the step, from the `needed` box before it."""
        ...

    def track_axes(self, tracks: Tracks, geometry: Geometry, record: Record) -> Tracks:
        """Follow voxels of the source through the step."""
        ...


class NoFit:
    """Base of steps that need not look at a scan."""

    fits: ClassVar[bool] = False
    local: ClassVar[bool] = True

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        return {}

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record | None:
        return None if self.fits else {}


class OnValues:
    """Base of steps that change values and leave the grid alone; an inverse has nothing to do for labels."""

    fits: ClassVar[bool] = False

    @property
    def local(self) -> bool:
        return True

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        return {}

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record | None:
        return None if self.fits else {}

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        return geometry

    def weight(self, weight_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return weight_czyx

    def label(self, label_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return label_czyx

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        raise NotImplementedError

    def input_box(self, box: Box, geometry: Geometry, record: Record) -> Box:
        return box

    def part(
        self, part_czyx: Array, needed: Box, box: Box, geometry: Geometry, record: Record
    ) -> Array:
        return self.image(part_czyx, geometry, record)

    def track_axes(self, tracks: Tracks, geometry: Geometry, record: Record) -> Tracks:
        return tracks


class OfChannels(OnValues):
    """Base of steps on values that may leave some channels as they are.

    Attributes:
        channels: numbers of those that the step changes, from 0; all where there are none. Options with one number a
            channel have one for each of these.
    """

    channels: tuple[int, ...]

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        if not self.channels:
            return self.values(image_czyx, image_czyx, record)
        out = image_czyx.astype(np.float32)
        chosen = self.chosen(image_czyx)
        out[list(self.channels)] = self.values(chosen, image_czyx, record)
        return out

    def values(self, chosen_czyx: Array, image_czyx: Array, record: Record) -> Array:
        """The channels of the step after it, given as they were and within the whole scan."""
        raise NotImplementedError

    def chosen(self, image_czyx: Array) -> Array:
        """The channels of the step.

        Raises:
            ConfigError: the scan does not have them.
        """
        if not self.channels:
            return image_czyx
        if max(self.channels) >= len(image_czyx) or min(self.channels) < 0:
            raise ConfigError(
                f"A step is for the channels {self.channels}, counted from 0; the scan has {len(image_czyx)}."
            )
        out: Array = image_czyx[list(self.channels)]
        return out

    def chosen_parts(self, parts: Parts) -> Parts:
        """The same of a scan that comes slab by slab."""
        return lambda: ((start, self.chosen(part)) for start, part in parts())


def holding(array: Array, values: Iterable[float]) -> Array:
    """The array, as float32 where its own type cannot hold the values, such as -1 in a scan of bytes."""
    if array.dtype.kind == "f":
        return array
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        if all(info.min <= v <= info.max and float(v).is_integer() for v in values):
            return array
    return array.astype(np.float32)


def per_channel(values: Any) -> Array:
    """One number a channel as an array [C, 1, 1, 1] that broadcasts over the scan."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1, 1)


def fitting(kind: str, values: tuple[float, ...], image_czyx: Array) -> Array:
    """One number for all channels of a scan or one for each, as `per_channel` shapes them.

    Raises:
        ConfigError: another number of them, which would make channels of its own.
    """
    if len(values) not in (1, len(image_czyx)):
        raise ConfigError(
            f"The step '{kind}' has {len(values)} numbers {values} for {len(image_czyx)} channels.",
            hint="Give one number for all channels, or one for each.",
        )
    return per_channel(values)


def paired(
    kind: str, one: tuple[float, ...], two: tuple[float, ...]
) -> Iterable[tuple[float, float]]:
    """Two options of a step by channel.

    Raises:
        ConfigError: they are for different numbers of channels.
    """
    count = max(len(one), len(two))
    if not count or {len(one), len(two)} - {1, count}:
        raise ConfigError(f"The options of '{kind}' are for {len(one)} and {len(two)} channels.")
    return zip(one * (count // len(one)), two * (count // len(two)), strict=True)


def keeps_grid(step: Step, geometry: Geometry) -> bool:
    """Whether the step leaves every voxel of such a scan in its place, whatever the scan holds."""
    if isinstance(step, OnValues):
        return True
    after = None if step.fits else step.grid(geometry, {})
    return after is not None and geometry.agrees(after)
