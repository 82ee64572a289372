"""The grid of a scan: the position of each voxel in the patient or specimen.

Arrays are [Z, Y, X]; physical quantities are x, y, z in LPS (x to the left, y to the back, z to the head) and
millimetres, as in ITK and DICOM. Column i of `direction` is the unit vector along array axis x, y, z respectively.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput, GeometryMismatch

Xyz = tuple[float, float, float]
Matrix = tuple[Xyz, Xyz, Xyz]
IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
TOLERANCE_VOXELS = 1e-3
"""Largest distance of corresponding voxel centres, in voxels, at which geometries agree: files round differently."""
_ROUNDED = 0.1
"""Largest difference, in voxels, that is treated as rounding rather than as another grid."""
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume.

    Attributes:
        shape_zyx: voxels along z, y, x.
        spacing_xyz: distance between voxel centres, mm.
        origin_xyz: centre of the first voxel, mm, LPS.
        direction: 3x3 matrix, rows x, y, z of space, columns the array axes x, y, z; orthonormal.
        unit: unit in which the file gave lengths and results show them, `mm` or `um`; spacing and origin are always in
            millimetres.
    """

    shape_zyx: tuple[int, int, int]
    spacing_xyz: Xyz = (1.0, 1.0, 1.0)
    origin_xyz: Xyz = (0.0, 0.0, 0.0)
    direction: Matrix = IDENTITY
    unit: str = "mm"

    def __post_init__(self) -> None:
        as_tuple = tuple(int(n) for n in self.shape_zyx)
        object.__setattr__(self, "shape_zyx", as_tuple)
        object.__setattr__(self, "spacing_xyz", tuple(float(v) for v in self.spacing_xyz))
        object.__setattr__(self, "origin_xyz", tuple(float(v) for v in self.origin_xyz))
        matrix = np.asarray(self.direction, np.float64).reshape(3, 3)
        object.__setattr__(self, "direction", tuple(tuple(float(v) for v in row) for row in matrix))
        if len(as_tuple) != 3 or min(as_tuple) < 1:
            raise BadInput(
                f"A volume needs three axes of at least one voxel, not {self.shape_zyx}."
            )
        if not np.isfinite(self.spacing_xyz).all() or min(self.spacing_xyz) <= 0:
            raise BadInput(f"The spacing must be positive, not {self.spacing_xyz} mm.")
        if not np.isfinite(self.origin_xyz).all():
            raise BadInput(f"The origin must be finite, not {self.origin_xyz}.")
        if not np.allclose(matrix.T @ matrix, np.eye(3), atol=1e-3):
            raise BadInput(
                "The direction matrix is not orthonormal (sheared or empty axes): "
                f"{np.round(matrix, 4).tolist()}.",
                hint="A grid has three axes at right angles; NIfTI, NRRD and MetaImage files that are sheared are read "
                "with the option straighten=yes.",
            )

    @property
    def spacing_zyx(self) -> Xyz:
        x, y, z = self.spacing_xyz
        return z, y, x

    @property
    def matrix(self) -> NDArray[np.float64]:
        return np.asarray(self.direction, np.float64)

    @property
    def affine(self) -> NDArray[np.float64]:
        """4x4 matrix from voxel index (x, y, z) to position (x, y, z) in mm, LPS."""
        out = np.eye(4)
        out[:3, :3] = self.matrix * np.asarray(self.spacing_xyz)
        out[:3, 3] = self.origin_xyz
        return out

    @property
    def voxel_volume_mm3(self) -> float:
        return float(np.prod(self.spacing_xyz))

    @property
    def orientation(self) -> str:
        """Three letters for the directions of x, y, z of the array, e.g. `LPS`; the nearest axes where oblique."""
        letters = []
        for column in self.nearest_axes():
            axis, sign = column
            letters.append(("LR", "PA", "SI")[axis][0 if sign > 0 else 1])
        return "".join(letters)

    def nearest_axes(self) -> list[tuple[int, int]]:
        """For each array axis x, y, z the nearest space axis and its sign; the axes are a permutation."""
        remaining = np.abs(self.matrix)
        out: dict[int, tuple[int, int]] = {}
        for _ in range(3):  # the least oblique axis first, so that the result is a permutation
            space, array = np.unravel_index(int(remaining.argmax()), (3, 3))
            out[int(array)] = int(space), 1 if self.matrix[space, array] >= 0 else -1
            remaining[space, :] = remaining[:, array] = -1
        return [out[i] for i in range(3)]

    def position(self, index_xyz: Any) -> NDArray[np.float64]:
        """The position in mm of voxel indices (..., 3) in x, y, z order."""
        index = np.asarray(index_xyz, np.float64)
        out: NDArray[np.float64] = index @ self.affine[:3, :3].T + np.asarray(self.origin_xyz)
        return out

    def sub(self, start_zyx: tuple[int, int, int], shape_zyx: tuple[int, int, int]) -> Geometry:
        """The grid of a part that starts at a given voxel (which may lie outside, for padding)."""
        z, y, x = start_zyx
        origin = self.position((x, y, z))
        return replace(self, shape_zyx=shape_zyx, origin_xyz=tuple(origin))

    def agrees(self, other: Geometry, tolerance: float = TOLERANCE_VOXELS) -> bool:
        """Whether corresponding voxel centres lie at most a fraction of a voxel apart, 1e-3 by default."""
        return self.difference(other, tolerance) is None

    def offset_voxels(self, other: Geometry) -> float | None:
        """The largest distance between corresponding voxel centres, in voxels; None where the shapes differ."""
        if self.shape_zyx != other.shape_zyx:
            return None
        z, y, x = self.shape_zyx
        corners = np.array([(i, j, k) for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])
        offsets = other.position(corners) - self.position(corners)
        return float(np.abs(offsets @ self.matrix / np.asarray(self.spacing_xyz)).max())

    def difference(self, other: Geometry, tolerance: float = TOLERANCE_VOXELS) -> str | None:
        """Description of the difference between two grids; None where they agree."""
        worst = self.offset_voxels(other)
        if worst is None:
            return f"shape (z, y, x) {self.shape_zyx} against {other.shape_zyx}"
        if worst <= tolerance:
            return None
        for what in ("spacing_xyz", "direction", "origin_xyz"):
            one, two = np.asarray(getattr(self, what)), np.asarray(getattr(other, what))
            if not np.allclose(one, two, rtol=1e-5, atol=1e-5):
                name = what.removesuffix("_xyz")
                return f"{name} {np.round(one, 5).tolist()} against {np.round(two, 5).tolist()}"
        return f"voxel centres up to {worst:.3g} voxels apart"

    def mismatch(
        self, other: Geometry, *, names: tuple[str, str], files: tuple[Path, Path] | None = None
    ) -> GeometryMismatch:
        """The error for two volumes that should share a grid: the difference, and how to mend it.

        Args:
            names: names of the two in the message.
            files: their files, for the command that resamples the first one.
        """
        worst = self.offset_voxels(other)
        near = worst is not None and worst <= _ROUNDED
        apart = f", {worst:.2g} of a voxel apart" if near else ""
        hints = []
        if worst is not None and near:
            allowed = math.ceil(worst * 1.01 * 1e4) / 1e4
            hints.append(
                f"Allow it with --grid-tolerance {allowed:g} (data.grid_tolerance in a run file)."
            )
        if files is not None:
            stem = re.sub(r"(\.\w{1,5}){1,2}$", "", files[0].name) or "label"
            words = (str(files[0]), f"{stem}_on_grid.nii.gz", "--like", str(files[1]))
            hints.append("Resample it: ctseg data convert " + " ".join(map(shlex.quote, words)))
        else:
            hints.append("Resample one onto the other: ctseg data convert A B --like REFERENCE")
        hints.append("Or check that they belong to the same case.")
        return GeometryMismatch(
            f"{names[0]} and {names[1]} do not lie on the same grid: {self.difference(other, 0.0)}{apart}.",
            hint="\n  ".join(hints),
        )


def as_xyz(values: Iterable[float]) -> Xyz:
    """Three numbers as a tuple."""
    x, y, z = (float(v) for v in values)
    return x, y, z


def as_matrix(matrix: Iterable[Iterable[float]]) -> Matrix:
    """A 3x3 array as a tuple of rows."""
    one, two, three = (as_xyz(row) for row in matrix)
    return one, two, three


def check_same(
    one: Geometry,
    two: Geometry,
    *,
    names: tuple[str, str],
    files: tuple[Path, Path] | None = None,
    tolerance: float = TOLERANCE_VOXELS,
) -> None:
    """Raise an error if two volumes that should share a grid do not.

    Args:
        names: names of the two in the message.
        files: their files, for the command that resamples the first one.
        tolerance: largest distance of corresponding voxel centres, in voxels.

    Raises:
        GeometryMismatch: with the first difference found.
    """
    if not one.agrees(two, tolerance):
        raise one.mismatch(two, names=names, files=files)
