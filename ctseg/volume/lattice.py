"""Grids that share their voxels but store them differently: with axes permuted or flipped, or cropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import GeometryMismatch
from ctseg.volume.geometry import TOLERANCE_VOXELS, Geometry, Number
from ctseg.volume.volume import Volume

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Placement:
    """Position and orientation of one grid within another one that shares its voxels.

    Attributes:
        axes: for each axis z, y, x of the other grid the corresponding axis of this one.
        signs: 1 if that axis runs the same way, -1 if it runs the other way.
        start: index of the first voxel in the other grid; may be negative.
        shape: shape of this grid along the axes of the other one.
        offset_voxels: largest distance of corresponding voxel centres, in voxels.
    """

    axes: Triple
    signs: Triple
    start: Triple
    shape: Triple
    offset_voxels: float

    @property
    def stop(self) -> Triple:
        """Index in the other grid one past the last voxel."""
        z, y, x = (a + n for a, n in zip(self.start, self.shape, strict=True))
        return z, y, x

    @property
    def turned(self) -> bool:
        """Whether axes are permuted or flipped."""
        return self.axes != (0, 1, 2) or self.signs != (1, 1, 1)

    def turn(self, array: NDArray[Number]) -> NDArray[Number]:
        """A view of [..., Z, Y, X] along the axes of the other grid."""
        front = array.ndim - 3
        order = (*range(front), *(front + axis for axis in self.axes))
        back: Any = (..., *(slice(None, None, sign) for sign in self.signs))
        turned: NDArray[Number] = np.transpose(array, order)[back]
        return turned

    def place(
        self, array: NDArray[Number], start: Sequence[int], stop: Sequence[int]
    ) -> NDArray[Number]:
        """The array [..., Z, Y, X] in a box of the other grid, 0 outside this grid."""
        shape = [b - a for a, b in zip(start, stop, strict=True)]
        if not self.turned and self.start == tuple(start) and list(self.shape) == shape:
            return array
        out = np.zeros((*array.shape[:-3], *shape), array.dtype)
        low = [max(a, b) for a, b in zip(self.start, start, strict=True)]
        high = [min(a, b) for a, b in zip(self.stop, stop, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            ends = list(zip(low, high, strict=True))
            into: Any = tuple(slice(a - s, b - s) for (a, b), s in zip(ends, start, strict=True))
            source: Any = tuple(
                slice(a - s, b - s) for (a, b), s in zip(ends, self.start, strict=True)
            )
            out[(..., *into)] = self.turn(array)[(..., *source)]
        return out


def placement(
    grid: Geometry, other: Geometry, tolerance: float = TOLERANCE_VOXELS
) -> Placement | None:
    """The placement of a grid within another one whose voxels it shares; None if it does not share them.

    Args:
        tolerance: largest distance of corresponding voxel centres, in voxels.
    """
    to_other = np.linalg.inv(other.affine) @ grid.affine
    turn = to_other[:3, :3][::-1, ::-1]  # from x, y, z to z, y, x
    offset = to_other[:3, 3][::-1]
    nearest = np.rint(turn)
    if (np.abs(nearest).sum(0) != 1).any() or (np.abs(nearest).sum(1) != 1).any():
        return None
    last = np.array(grid.shape_zyx) - 1
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * last
    whole = np.rint(offset) + corners @ nearest.T
    if np.abs(whole).max() > 2**31:
        return None
    apart = float(np.abs(offset + corners @ turn.T - whole).max())
    if apart > tolerance:
        return None
    axes = [int(np.abs(row).argmax()) for row in nearest]
    z, y, x = (int(v) for v in whole.min(0))
    return Placement(
        axes=(axes[0], axes[1], axes[2]),
        signs=tuple(int(nearest[i, axis]) for i, axis in enumerate(axes)),  # type: ignore[arg-type]
        start=(z, y, x),
        shape=tuple(grid.shape_zyx[axis] for axis in axes),  # type: ignore[arg-type]
        offset_voxels=apart,
    )


@dataclass(frozen=True)
class CommonGrid:
    """Two maps on one grid.

    Attributes:
        one, two: the maps; 0 outside their own grids.
        start: index (z, y, x) of the grid's first voxel in the second map's own grid; 0 or less.
        reference_depth: slices of the second map's own grid.
        notes: how the maps were brought onto the grid.
    """

    one: Volume
    two: Volume
    start: Triple
    reference_depth: int
    notes: tuple[str, ...] = ()

    def to_common(self, array: NDArray[Number]) -> NDArray[Number]:
        """Another array on the second map's own grid, padded with 0 to the common grid."""
        return _padded(array, self.start, self.two.geometry.shape_zyx)


def on_common_grid(
    one: Volume,
    two: Volume,
    *,
    names: tuple[str, str],
    files: tuple[Path, Path] | None = None,
    tolerance: float = TOLERANCE_VOXELS,
    pad: bool = True,
) -> CommonGrid:
    """Two maps on the smallest grid of shared voxels that holds both.

    Args:
        names: names of the two in messages.
        files: their files, for messages.
        tolerance: largest distance of corresponding voxel centres, in voxels.
        pad: whether maps are padded with 0; else the grid is that of the second map, which the first one must
            cover.

    Raises:
        GeometryMismatch: they share no voxels, or fewer than required.
    """
    place = placement(one.geometry, two.geometry, tolerance)
    if place is None:
        raise one.geometry.mismatch(two.geometry, names=names, files=files)
    target = two.geometry.shape_zyx
    if any(a >= n or b <= 0 for a, b, n in zip(place.start, place.stop, target, strict=True)):
        raise GeometryMismatch(
            f"{names[0]} and {names[1]} have the same voxel grid but no voxel in common.",
            hint="Check that they belong to the same case.",
        )
    start, stop = (0, 0, 0), target
    if pad:
        start = tuple(min(a, 0) for a in place.start)  # type: ignore[assignment]
        stop = tuple(max(a, b) for a, b in zip(place.stop, target, strict=True))  # type: ignore[assignment]
    elif any(a > 0 or b < n for a, b, n in zip(place.start, place.stop, target, strict=True)):
        raise one.geometry.mismatch(two.geometry, names=names, files=files)
    shape = tuple(b - a for a, b in zip(start, stop, strict=True))
    geometry = two.geometry if shape == target else two.geometry.sub(start, shape)  # type: ignore[arg-type]
    moved = replace(one, array=place.place(one.array, start, stop), geometry=geometry)
    grown = replace(two, array=_padded(two.array, start, geometry.shape_zyx), geometry=geometry)
    return CommonGrid(moved, grown, start, target[0], _notes(place, one, two, names))


def _padded(array: NDArray[Number], start: Triple, shape: Sequence[int]) -> NDArray[Number]:
    """An array [..., Z, Y, X] padded to a larger grid that begins at `start`, 0 or less."""
    size = array.shape[-3:]
    if size == tuple(shape):
        return array
    out = np.zeros((*array.shape[:-3], *shape), array.dtype)
    into: Any = tuple(slice(-a, n - a) for a, n in zip(start, size, strict=True))
    out[(..., *into)] = array
    return out


def _notes(place: Placement, one: Volume, two: Volume, names: tuple[str, str]) -> tuple[str, ...]:
    notes = []
    target = two.geometry.shape_zyx
    if place.offset_voxels > TOLERANCE_VOXELS:
        notes.append(
            f"{names[0]} lies {place.offset_voxels:.2g} of a voxel beside {names[1]} and is taken as it is"
        )
    if place.turned:
        notes.append(
            f"{names[0]} is stored {one.geometry.orientation} and was turned to "
            f"{two.geometry.orientation} as {names[1]}"
        )
    if any(a > 0 or b < n for a, b, n in zip(place.start, place.stop, target, strict=True)):
        notes.append(
            f"{names[0]} covers {_box(place.start, place.stop)} (z, y, x) of {names[1]}; "
            "outside it counts as background"
        )
    if any(a < 0 or b > n for a, b, n in zip(place.start, place.stop, target, strict=True)):
        notes.append(
            f"{names[0]} reaches beyond {names[1]} ({_box(place.start, place.stop)} of {target} voxels z, y, x), "
            "which counts as background there"
        )
    return tuple(notes)


def _box(start: Sequence[int], stop: Sequence[int]) -> str:
    return ", ".join(f"{a}:{b}" for a, b in zip(start, stop, strict=True))
