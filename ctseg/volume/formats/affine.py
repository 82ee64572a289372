"""From the matrix of a header to a grid: orthonormal as it is, or sheared and straightened on request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.formats import grids
from ctseg.volume.geometry import Geometry

Straighten = Literal["no", "yes", "nearest"]
_DAMAGED = "Its header is damaged; export the scan again."
_ORTHONORMAL = 1e-3
_LONGEST = 1e9
"""Millimetres."""
_GROWTH = 64
"""Largest ratio of voxels, straightened to stored; a tilt of 30 degrees takes about 2."""


@dataclass(frozen=True)
class Affine:
    """Position of voxels: position = matrix @ index + origin, in x, y, z, LPS and millimetres.

    Attributes:
        shape_zyx: number of voxels.
        matrix: 3x3, a column for each array axis x, y, z, spacing included.
        origin_xyz: position of the first voxel.
        unit: unit in which lengths are shown.
    """

    shape_zyx: tuple[int, int, int]
    matrix: NDArray[np.float64]
    origin_xyz: NDArray[np.float64]
    unit: str = "mm"


@dataclass(frozen=True)
class StraightGrid:
    """The grid of a scan, and how its voxels must be moved to lie on it.

    Attributes:
        geometry: the grid that the scan is read on.
        skew: 3x3, upper triangular with ones on the diagonal: the position of the stored voxel (i, j, k) on an
            orthogonal grid with the same first voxel, in voxels. None if voxels lie on the grid already.
        start_xy: first column and row of `geometry` on that orthogonal grid.
    """

    geometry: Geometry
    skew: NDArray[np.float64] | None = None
    start_xy: tuple[int, int] = (0, 0)


def check_straighten(value: str) -> Straighten:
    """Check the value of the option `straighten`.

    Raises:
        BadInput: the value is not `no`, `yes` or `nearest`.
    """
    if value not in ("no", "yes", "nearest"):
        raise BadInput(
            f"The option straighten is 'yes', 'nearest' or 'no', not '{value}'.",
            hint="'yes' interpolates linearly; 'nearest' is for label maps.",
        )
    return cast(Straighten, value)


def directions(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The spacing of each column, and the columns at unit length; zero columns stay zero."""
    spacing = np.linalg.norm(matrix, axis=0)
    return spacing, matrix / np.where(spacing > 0, spacing, 1.0)


def is_sheared(matrix: NDArray[np.float64]) -> bool:
    """Whether the columns of a matrix deviate from right angles by more than rounding."""
    columns = grids.orthonormal(directions(matrix)[1])
    return not np.allclose(columns.T @ columns, np.eye(3), atol=_ORTHONORMAL)


def straight_grid(path: Path, affine: Affine, straighten: Straighten) -> StraightGrid:
    """The grid of a scan.

    Raises:
        FileProblem: the numbers are not a grid, or the grid is sheared and is not to be straightened.
    """
    _check_lengths(path, affine)
    spacing, columns = directions(affine.matrix)
    usable = abs(np.linalg.det(columns)) > 1e-6
    if not usable or not is_sheared(affine.matrix):
        return StraightGrid(_geometry(path, affine, spacing, columns))
    if straighten == "no":
        skewed = np.round(columns, 4).tolist()
        raise FileProblem(
            f"{path}: the axes of the grid are sheared, not orthonormal: {skewed} (rows x, y, z; one column an axis).",
            hint="--option straighten=yes resamples it onto a grid that is not sheared (straighten=nearest for a label "
            f"map), here or once for all: ctseg data convert {path} OUTPUT --option straighten=yes",
        )
    return _straight(path, affine)


def _check_lengths(path: Path, affine: Affine) -> None:
    """Refuse lengths that no scan has, before they are used."""
    numbers = np.column_stack([affine.matrix, affine.origin_xyz])
    sizes = np.abs(affine.matrix).max(axis=0)
    if not (np.abs(numbers) <= _LONGEST).all() or sizes.min() < 1 / _LONGEST:
        raise FileProblem(
            f"{path}: its header gives voxel sizes of {' x '.join(f'{v:.3g}' for v in sizes)} mm and the origin "
            f"{' x '.join(f'{v:.3g}' for v in affine.origin_xyz)} mm, which are no grid.",
            hint=_DAMAGED,
        )


def _straight(path: Path, affine: Affine) -> StraightGrid:
    """The orthogonal grid that keeps the first axis and the plane of the first two (QR factors of the matrix)."""
    q, r = np.linalg.qr(affine.matrix)
    signs = np.sign(np.diag(r))
    q, r = q * signs, r * signs[:, None]
    spacing = np.diag(r)
    skew = r / spacing[:, None]
    z, y, x = affine.shape_zyx
    corners = np.array([(i, j, k) for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])
    reached = corners @ skew.T
    if np.abs(reached).max() > 1e9:
        raise FileProblem(
            f"{path}: the axes of its grid are sheared too far to be straightened.", hint=_DAMAGED
        )
    low, high = np.floor(reached.min(0) + 1e-6), np.ceil(reached.max(0) - 1e-6)
    shape = (z, int(high[1] - low[1]) + 1, int(high[0] - low[0]) + 1)
    if math.prod(shape) > _GROWTH * math.prod(affine.shape_zyx):
        raise FileProblem(
            f"{path}: the axes of the grid are sheared so far that the straightened scan would have {shape} voxels.",
            hint=_DAMAGED,
        )
    origin = affine.origin_xyz + q @ (spacing * np.array([low[0], low[1], 0.0]))
    straight = Affine(shape, q * spacing, origin, affine.unit)
    return StraightGrid(_geometry(path, straight, spacing, q), skew, (int(low[0]), int(low[1])))


def _geometry(
    path: Path, affine: Affine, spacing: NDArray[np.float64], columns: NDArray[np.float64]
) -> Geometry:
    return grids.make_geometry(
        path,
        affine.shape_zyx,
        spacing.tolist(),
        affine.origin_xyz.tolist(),
        columns,
        affine.unit,
    )
