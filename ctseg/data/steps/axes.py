"""Steps that flip and permute axes: exact, and exactly undone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ctseg.data.steps.base import Array, Box, NoFit, Record, Span, Zyx
from ctseg.data.steps.track import Track, Tracks, each
from ctseg.errors import ConfigError
from ctseg.volume.geometry import Geometry, as_matrix, as_xyz

_LETTERS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
"""The space axis and sign (LPS) that each letter stands for."""


class Moved(NoFit):
    """Base of steps that flip and permute axes."""

    def _source(self, geometry: Geometry) -> tuple[list[int], list[bool]]:
        """For the new array axes x, y, z: which old one they come from, and whether it is flipped."""
        raise NotImplementedError

    def grid(self, geometry: Geometry, record: Record) -> Geometry:
        return _moved_grid(geometry, *self._source(geometry))

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return _moved(image_czyx, *self._source(geometry))

    weight = label = image

    def _axes(self, geometry: Geometry) -> list[tuple[int, bool]]:
        """For each old axis z, y, x: the new one that runs along it, and whether it is flipped."""
        source, flips = self._source(geometry)
        new_of = {2 - old: (2 - new, flips[new]) for new, old in enumerate(source)}
        return [new_of[axis] for axis in range(3)]

    def input_box(self, box: Box, geometry: Geometry, record: Record) -> Box:
        z, y, x = (
            _turned(box[new], size) if flip else box[new]
            for (new, flip), size in zip(self._axes(geometry), geometry.shape_zyx, strict=True)
        )
        return z, y, x

    def part(
        self, part_czyx: Array, needed: Box, box: Box, geometry: Geometry, record: Record
    ) -> Array:
        return _moved(part_czyx, *self._source(geometry))

    def track_axes(self, tracks: Tracks, geometry: Geometry, record: Record) -> Tracks:
        axes = self._axes(geometry)

        def change(track: Track) -> Track:
            new, flip = axes[track.axis]
            last = geometry.shape_zyx[track.axis] - 1
            return Track(new, last - track.at if flip else track.at, track.inside)

        return each(tracks, change)


@dataclass(frozen=True)
class Orient(Moved):
    """Flip and permute the axes so that x, y, z of the array run to the left, back and head (LPS).

    Oblique scans go to the nearest such order of axes, without resampling. Exact, and exactly undone.

    Attributes:
        to: where x, y, z of the array run to: L or R, P or A, S or I, in any order; `RAS` as MONAI and TorchIO.
    """

    kind: ClassVar[str] = "orient"
    to: str = "LPS"

    def __post_init__(self) -> None:
        spaces = [_LETTERS[c][0] for c in self.to if c in _LETTERS]
        if len(self.to) != 3 or sorted(spaces) != [0, 1, 2]:
            raise ConfigError(
                f"'{self.to}' is no orientation.",
                hint="Three letters for where x, y, z run to, e.g. LPS or RAS",
            )

    def _source(self, geometry: Geometry) -> tuple[list[int], list[bool]]:
        axes = geometry.nearest_axes()
        wanted = [_LETTERS[c] for c in self.to]
        source = [[space for space, _ in axes].index(space) for space, _ in wanted]
        return source, [axes[a][1] != sign for a, (_, sign) in zip(source, wanted, strict=True)]


@dataclass(frozen=True)
class Transpose(Moved):
    """Permute the axes of the array as they are stored, as nnU-Net's `transpose_forward`.

    Attributes:
        order_zyx: the old axis (0 z, 1 y, 2 x) that each new one comes from.
    """

    kind: ClassVar[str] = "transpose"
    order_zyx: Zyx = (0, 1, 2)

    def __post_init__(self) -> None:
        if sorted(self.order_zyx) != [0, 1, 2]:
            raise ConfigError(
                f"{self.order_zyx} is no order of three axes.", hint="For example: [2, 0, 1]"
            )

    def _source(self, geometry: Geometry) -> tuple[list[int], list[bool]]:
        return [2 - self.order_zyx[2 - axis] for axis in range(3)], [False] * 3


def _turned(span: Span, size: int) -> Span:
    return size - span[1], size - span[0]


def _moved_grid(geometry: Geometry, source: Sequence[int], flips: Sequence[bool]) -> Geometry:
    """The grid after new axes x, y, z come from old ones, some of them flipped."""
    old_shape_xyz = geometry.shape_zyx[::-1]
    corner = [0, 0, 0]
    for array_axis, flip in zip(source, flips, strict=True):
        corner[array_axis] = old_shape_xyz[array_axis] - 1 if flip else 0
    signs = [-1 if flip else 1 for flip in flips]
    x, y, z = (old_shape_xyz[a] for a in source)
    return dataclasses.replace(
        geometry,
        shape_zyx=(z, y, x),
        spacing_xyz=as_xyz(geometry.spacing_xyz[a] for a in source),
        origin_xyz=as_xyz(geometry.position(corner)),
        direction=as_matrix(geometry.matrix[:, list(source)] * np.asarray(signs)),
    )


def _order(source: Sequence[int]) -> list[int]:
    """For the new array axes z, y, x, the old axis of [C, Z, Y, X] that they come from."""
    return [3 - source[2 - axis] for axis in range(3)]


def _flipped(flips: Sequence[bool]) -> tuple[int, ...]:
    return tuple(1 + axis for axis in range(3) if flips[2 - axis])


def _moved(array_czyx: Array, source: Sequence[int], flips: Sequence[bool]) -> Array:
    moved = array_czyx.transpose(0, *_order(source))
    return np.flip(moved, _flipped(flips)) if any(flips) else moved
