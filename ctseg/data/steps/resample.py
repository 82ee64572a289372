"""Steps that resample: the scan by interpolation, labels as one map a value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ctseg.data.steps.base import Array, Box, NoFit, Parts, Record, Zyx
from ctseg.data.steps.interpolate import is_identity, labels_at, nearest, values_at
from ctseg.data.steps.statistics import clipped, slice_ranges
from ctseg.data.steps.track import Positions, Track, Tracks, each
from ctseg.errors import ConfigError
from ctseg.volume.distinct_values import distinct_values
from ctseg.volume.geometry import Geometry
from ctseg.volume.resample import centres, resampled_geometry

Order = Literal[0, 1, 3]
SPLINE_REACH = 26
"""Voxels beyond which a spline's coefficients do not feel a cut: its pole is -0.268, and 0.268^26 is 1e-15."""


class Resampling(NoFit):
    """Base of steps that put the scan on a grid of other voxels along the same axes."""

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        raise NotImplementedError

    def back_positions(self, geometry: Geometry) -> Positions:
        """Where the voxel centres of the grid before lie on the one after, in its voxels, along z, y, x."""
        raise NotImplementedError

    def weight(self, weight_czyx: Array, geometry: Geometry, record: Record) -> Array:
        raise NotImplementedError

    def label(
        self, label_czyx: Array, geometry: Geometry, record: Record, without: int | None = None
    ) -> Array:
        """A label map after the step.

        Args:
            without: a value that stands only where no other one contributes.
        """
        raise NotImplementedError

    def track_axes(self, tracks: Tracks, geometry: Geometry, record: Record) -> Tracks:
        positions = self.back_positions(geometry)
        after = self.grid(geometry, record).shape_zyx

        def change(track: Track) -> Track:
            return track.resampled(positions[track.axis], after[track.axis])

        return each(tracks, change)


@dataclass(frozen=True)
class Resample(Resampling):
    """Resample to a spacing. Labels go linearly, each value as a map of its own, and the strongest wins.

    Attributes:
        spacing_xyz: target in mm, 0 keeps an axis as it is.
        order: interpolation of the scan: 0 nearest, 1 linear, 3 cubic.
        coarse_order: the same along the one axis whose spacing, before or after, is the largest and over 3 x the
            finest (nnU-Net's rule).
        kernel: of order 3: `keys` is a cubic convolution over four voxels, `spline` an interpolating B-spline as
            in SciPy, scikit-image and nnU-Net.
        align: `extent` keeps the outer faces of the scan in place, so that the spacing reached differs in the last
            digits (nnU-Net); `first` keeps the centre of the first voxel and the spacing (MONAI, SimpleITK).
        coarse: which axis is the coarse one: `auto` by the rule above; `always` the axis of the largest spacing before,
            where there is one such axis; `never` none (nnU-Net's force_separate_z).
        clip: whether what a spline overshoots is clipped to the range of the scan at this step, of each slice across
            the coarse axis where there is one (nnU-Net).
        back_coarse_order: predicted scores come back linearly; along the coarse axis with 0 the nearest slice's count
            (nnU-Net).
    """

    kind: ClassVar[str] = "resample"
    spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: Order = 3
    coarse_order: Order = 0
    kernel: Literal["keys", "spline"] = "keys"
    align: Literal["extent", "first"] = "extent"
    coarse: Literal["auto", "always", "never"] = "auto"
    clip: bool = False
    back_coarse_order: Literal[0, 1] = 1

    def __post_init__(self) -> None:
        if min(self.spacing_xyz) < 0:
            raise ConfigError(f"The target spacing cannot be negative: {self.spacing_xyz}.")

    def _ratios(self, geometry: Geometry) -> list[float]:
        """New spacing in old voxels along z, y, x."""
        return [
            wanted / old if wanted else 1.0
            for old, wanted in zip(geometry.spacing_zyx, self.spacing_xyz[::-1], strict=True)
        ]

    def shape_after(self, geometry: Geometry) -> Zyx:
        pairs = zip(geometry.shape_zyx, self._ratios(geometry), strict=True)
        if self.align == "first":
            z, y, x = (round((size - 1) / ratio + 1) for size, ratio in pairs)  # as MONAI rounds
        else:
            after = self._spacing_after(
                geometry
            )  # the order of operations is nnU-Net's, for sizes half-way
            z, y, x = (
                max(1, round(old / new * size))
                for size, old, new in zip(
                    geometry.shape_zyx, geometry.spacing_zyx, after, strict=True
                )
            )
        return z, y, x

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        shape = self.shape_after(geometry)
        if self.align == "extent":
            return resampled_geometry(geometry, shape)
        x, y, z = (w or o for w, o in zip(self.spacing_xyz, geometry.spacing_xyz, strict=True))
        return dataclasses.replace(geometry, shape_zyx=shape, spacing_xyz=(x, y, z))

    def positions(self, geometry: Geometry) -> Positions:
        """Where the new voxel centres lie on the grid before, in its voxels, along z, y, x."""
        after = self.shape_after(geometry)
        if self.align == "extent":
            z, y, x = (centres(n, m) for n, m in zip(geometry.shape_zyx, after, strict=True))
        else:
            ratios = self._ratios(geometry)
            z, y, x = (
                np.arange(m, dtype=np.float64) * r for m, r in zip(after, ratios, strict=True)
            )
        return z, y, x

    def back_positions(self, geometry: Geometry) -> Positions:
        after = self.shape_after(geometry)
        if self.align == "extent":
            z, y, x = (centres(m, n) for n, m in zip(geometry.shape_zyx, after, strict=True))
        else:
            ratios = self._ratios(geometry)
            z, y, x = (
                np.arange(n, dtype=np.float64) / r
                for n, r in zip(geometry.shape_zyx, ratios, strict=True)
            )
        if self.back_coarse_order == 1:
            return z, y, x
        coarse = self._coarse(self._spacing_after(geometry), geometry.spacing_zyx)
        z, y, x = (nearest(at) if a == coarse else at for a, at in enumerate((z, y, x)))
        return z, y, x

    def _spacing_after(self, geometry: Geometry) -> list[float]:
        """The spacing asked for, along z, y, x."""
        pairs = zip(self.spacing_xyz[::-1], geometry.spacing_zyx, strict=True)
        return [wanted or old for wanted, old in pairs]

    def _coarse(self, first: Sequence[float], second: Sequence[float]) -> int | None:
        """The coarse axis of the first spacing (z, y, x) or, if it has none, of the second."""
        if self.coarse == "never":
            return None
        if self.coarse == "always":
            return _coarse_axis(first, ratio=1.0)
        found = _coarse_axis(first)
        return _coarse_axis(second) if found is None else found

    def coarse_axis(self, geometry: Geometry) -> int | None:
        """The axis (0 z, 1 y, 2 x) that is resampled with `coarse_order`; None where all are alike."""
        return self._coarse(geometry.spacing_zyx, self._spacing_after(geometry))

    def orders(self, geometry: Geometry, order: int) -> tuple[int, int, int]:
        """The order along z, y, x: `coarse_order` on the one axis that is coarse before or, if none is, after."""
        coarse = self.coarse_axis(geometry)
        z, y, x = (min(self.coarse_order, order) if a == coarse else order for a in range(3))
        return z, y, x

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        positions = self.positions(geometry)
        if is_identity(positions, image_czyx.shape[1:]):
            return image_czyx
        return self._scan_at(image_czyx, positions, geometry, record, 0)

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        return self.fit_parts(lambda: [(0, image_czyx)], geometry)

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record:
        """Where values are clipped: the range of each channel, of each slice across the coarse axis if there is one."""
        positions = self.positions(geometry)
        if not (self.clip and self.order == 3) or is_identity(positions, geometry.shape_zyx):
            return {}
        low, high = slice_ranges(parts, self.coarse_axis(geometry), geometry.shape_zyx)
        return {"low": low.tolist(), "high": high.tolist()}

    def _scan_at(
        self,
        image_czyx: Array,
        positions: Positions,
        geometry: Geometry,
        record: Record,
        first: int,
    ) -> Array:
        """The scan at these positions.

        Args:
            first: where along the coarse axis the given part of the scan begins.
        """
        orders, spline = self.orders(geometry, self.order), self.kernel == "spline"
        if "low" not in record:
            return values_at(image_czyx, positions, orders, spline=spline)
        coarse = self.coarse_axis(geometry)
        if coarse is None:
            out = values_at(image_czyx, positions, orders, spline=spline)
            return clipped(out, record, None, slice(None))
        # in the slices first, clipped to the range of each, then across them
        size = image_czyx.shape[coarse + 1]
        z, y, x = (
            np.arange(size, dtype=np.float64) if axis == coarse else at
            for axis, at in enumerate(positions)
        )
        out = values_at(image_czyx, (z, y, x), orders, spline=spline)
        out = clipped(out, record, coarse, slice(first, first + size))
        z, y, x = (
            at if axis == coarse else np.arange(len(at), dtype=np.float64)
            for axis, at in enumerate(positions)
        )
        return values_at(out, (z, y, x), orders, spline=spline)

    def input_box(self, box: Box, geometry: Geometry, record: Record) -> Box:
        positions = self.positions(geometry)
        reach = SPLINE_REACH if self.kernel == "spline" and self.order == 3 else 2
        spans = []
        for (a, b), at, size in zip(box, positions, geometry.shape_zyx, strict=True):
            if len(at) == size and bool((at == np.arange(size)).all()):
                spans.append((a, b))
                continue
            low = min(max(math.floor(at[a]) - reach, 0), size - 1)
            spans.append((low, min(max(math.floor(at[b - 1]) + reach + 1, low + 1), size)))
        return spans[0], spans[1], spans[2]

    def part(
        self, part_czyx: Array, needed: Box, box: Box, geometry: Geometry, record: Record
    ) -> Array:
        positions = self.positions(geometry)
        if is_identity(positions, geometry.shape_zyx):
            return part_czyx
        z, y, x = (at[a:b] - c for at, (a, b), (c, _) in zip(positions, box, needed, strict=True))
        coarse = self.coarse_axis(geometry)
        first = 0 if coarse is None else needed[coarse][0]
        return self._scan_at(part_czyx, (z, y, x), geometry, record, first)

    def weight(self, weight_czyx: Array, geometry: Geometry, record: Record) -> Array:
        """At most linearly: cubic interpolation could make weights negative."""
        positions = self.positions(geometry)
        if is_identity(positions, weight_czyx.shape[1:]):
            return weight_czyx
        return values_at(weight_czyx, positions, self.orders(geometry, min(self.order, 1)))

    def label(
        self, label_czyx: Array, geometry: Geometry, record: Record, without: int | None = None
    ) -> Array:
        positions = self.positions(geometry)
        if is_identity(positions, label_czyx.shape[1:]):
            return label_czyx
        return labels_at(label_czyx, positions, self.orders(geometry, 1), without=without)


@dataclass(frozen=True)
class Downscale(Resampling):
    """Make voxels a whole number of times as large: the mean of each block, and its most frequent label.

    An axis that is no multiple is continued by its last slice. On the way back scores are interpolated linearly.

    Attributes:
        factor_zyx: `[1, 2, 2]` halves the resolution in the plane.
    """

    kind: ClassVar[str] = "downscale"
    factor_zyx: Zyx = (1, 2, 2)

    def __post_init__(self) -> None:
        if min(self.factor_zyx) < 1:
            raise ConfigError(f"Factors are 1 or more: {self.factor_zyx}.")

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        factors_xyz = np.asarray(self.factor_zyx[::-1])
        spacing = np.asarray(geometry.spacing_xyz) * factors_xyz
        x, y, z = geometry.position((factors_xyz - 1) / 2)
        return dataclasses.replace(
            geometry,
            shape_zyx=self._shape(geometry.shape_zyx),
            spacing_xyz=tuple(spacing),
            origin_xyz=(x, y, z),
        )

    def _shape(self, shape_zyx: Sequence[int]) -> Zyx:
        z, y, x = (-(-size // f) for size, f in zip(shape_zyx, self.factor_zyx, strict=True))
        return z, y, x

    def back_positions(self, geometry: Geometry) -> Positions:
        z, y, x = (
            (np.arange(size) + 0.5) / factor - 0.5
            for size, factor in zip(geometry.shape_zyx, self.factor_zyx, strict=True)
        )
        return z, y, x

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        if max(self.factor_zyx) == 1:
            return image_czyx
        out = np.ascontiguousarray(image_czyx, np.float32)
        for axis, factor in enumerate(self.factor_zyx, start=1):
            out = _block_mean(out, axis, factor)
        return out

    def input_box(self, box: Box, geometry: Geometry, record: Record) -> Box:
        z, y, x = (
            (a * f, min(b * f, size))
            for (a, b), f, size in zip(box, self.factor_zyx, geometry.shape_zyx, strict=True)
        )
        return z, y, x

    def part(
        self, part_czyx: Array, needed: Box, box: Box, geometry: Geometry, record: Record
    ) -> Array:
        return self.image(part_czyx, geometry, record)

    def weight(self, weight_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return self.image(weight_czyx, geometry, record)

    def label(
        self, label_czyx: Array, geometry: Geometry, record: Record, without: int | None = None
    ) -> Array:
        if max(self.factor_zyx) == 1:
            return label_czyx
        shape = (label_czyx.shape[0], *self._shape(label_czyx.shape[1:]))
        out = np.full(shape, without or 0, label_czyx.dtype)
        best = np.full(shape, -1 if without is None else 0, np.float32)
        for value in distinct_values(label_czyx):
            if value == without:
                continue
            share = self.image(label_czyx == value, geometry, record)
            better = share > best + 1e-6  # equal shares go to the smaller value, however sums round
            out[better] = value
            np.maximum(best, share, out=best)
        return out


def _block_mean(array: Array, axis: int, factor: int) -> Array:
    if factor == 1:
        return array
    size = array.shape[axis]
    missing = -size % factor
    if missing:
        last = np.take(array, [size - 1], axis)
        array = np.concatenate([array, np.repeat(last, missing, axis)], axis)
    shape: list[Any] = list(array.shape)
    shape[axis : axis + 1] = [array.shape[axis] // factor, factor]
    out: Array = array.reshape(shape).mean(axis + 1, dtype=np.float32)
    return out


def _coarse_axis(spacing_zyx: Sequence[float], ratio: float = 3.0) -> int | None:
    """The one axis whose spacing is the largest and over `ratio` x the finest."""
    largest = max(spacing_zyx)
    axes = [axis for axis, spacing in enumerate(spacing_zyx) if spacing > 0.999 * largest]
    return axes[0] if len(axes) == 1 and largest > ratio * min(spacing_zyx) else None
