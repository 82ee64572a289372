"""Position of the voxels of a NIfTI file: one rule for its sform, qform and voxel sizes, which may disagree.

The rule is that of nibabel, FSL and software based on them: the sform applies if its code is above 0, else the qform
if its code is above 0, else the voxel sizes alone, along x, y, z of LPS from the origin, as in ITK. Disagreements are
noted, and all fields are kept in results on the same grid.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import FileProblem
from ctseg.volume.formats.affine import Affine, is_sheared, straight_grid
from ctseg.volume.geometry import Geometry

METADATA = "nifti_orientation"
"""Metadata key of a source's orientation."""
METRE, MILLIMETRE, MICROMETRE = 1, 2, 3
_UNITS_IN_MM = {METRE: 1000.0, MILLIMETRE: 1.0, MICROMETRE: 1e-3}
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
_FIRST_VOXEL, _CORNERS = 0.02, 0.5
"""Largest difference of qform and sform without a note, in voxels, at the first voxel and the corners: a
single-precision quaternion turns a scan by up to 6e-4, which is a third of a voxel over 512."""
_SIZES = 1e-3
_LONGEST = 1e12
"""Largest length, in any unit; larger numbers are not lengths of a scan."""


@dataclass(frozen=True)
class NiftiOrientation:
    """The orientation fields of a header, as they are stored.

    Attributes:
        pixdim: the first four values: sign of the qform's third axis, and the voxel sizes.
        qform_code, sform_code: what the matrices refer to; 0 if a matrix is unset.
        quaternion: b, c, d of the qform.
        offset: x, y, z of the qform.
        sform: 3x4, in RAS.
        unit: code of the unit of all lengths.
    """

    pixdim: tuple[float, float, float, float]
    qform_code: int
    sform_code: int
    quaternion: tuple[float, float, float]
    offset: tuple[float, float, float]
    sform: tuple[float, ...]
    unit: int

    @property
    def sizes(self) -> NDArray[np.float64]:
        """Voxel sizes in the header's unit: positive, and 1 where the header has none."""
        sizes = np.abs(np.array(self.pixdim[1:], np.float64))
        return np.where(_are_lengths(sizes), sizes, 1.0)

    def affine(self, shape_zyx: tuple[int, int, int]) -> tuple[Affine, tuple[str, ...]]:
        """The matrix that applies, in mm and LPS, and notes."""
        notes = []
        sizes = np.array(self.pixdim[1:])
        if not _are_lengths(np.abs(sizes)).all():
            notes.append(f"the header has no voxel size for all axes: pixdim is {_joined(sizes)}")
        elif (sizes < 0).any():
            notes.append(
                f"the header has negative voxel sizes, {_joined(sizes)}; their sign is ignored"
            )
        sform = np.array(self.sform, np.float64).reshape(3, 4) if self.sform_code > 0 else None
        if sform is not None and not _is_usable(sform):
            notes.append(
                "its sform is no matrix that places voxels; the qform or the voxel sizes count"
            )
            sform = None
        qform = self._qform() if self.qform_code > 0 else None
        if sform is not None:
            notes += self._disagreements(sform, qform, shape_zyx)
            counts = sform
        elif qform is not None:
            counts = qform
        else:
            notes.append(
                "neither sform nor qform say where the scan lies and which side is left; its axes are taken for "
                "left, back and head"
            )
            counts = np.diag([*(self.sizes * _RAS_TO_LPS), 0.0])[:3]
        return self._in_mm(counts, shape_zyx), tuple(notes)

    def _in_mm(self, matrix: NDArray[np.float64], shape_zyx: tuple[int, int, int]) -> Affine:
        in_lps = matrix * _RAS_TO_LPS[:, None] * _UNITS_IN_MM.get(self.unit, 1.0)
        unit = "um" if self.unit == MICROMETRE else "mm"
        return Affine(shape_zyx, in_lps[:, :3], in_lps[:, 3] + 0.0, unit)

    def _qform(self) -> NDArray[np.float64]:
        """The 3x4 matrix of the quaternion (nifti1.h, method 2)."""
        parts = np.array([*self.quaternion, *self.offset], np.float64)
        if not (np.abs(parts) < _LONGEST).all():
            raise ValueError("its qform holds numbers that are not finite")
        b, c, d = parts[:3]
        square = 1.0 - (b * b + c * c + d * d)
        if square < 1e-7:  # a half turn, as in niftilib
            b, c, d = parts[:3] / max(float(np.linalg.norm(parts[:3])), 1e-30)
            square = 0.0
        a = np.sqrt(square)
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
            ]
        )
        sizes = self.sizes * (1.0, 1.0, -1.0 if self.pixdim[0] < 0 else 1.0)
        return np.column_stack([turn * sizes, parts[3:]])

    def _disagreements(
        self,
        sform: NDArray[np.float64],
        qform: NDArray[np.float64] | None,
        shape_zyx: tuple[int, int, int],
    ) -> list[str]:
        z, y, x = shape_zyx
        factor = _UNITS_IN_MM.get(self.unit, 1.0)
        notes = []
        if qform is not None:
            ends = ((0, x - 1), (0, y - 1), (0, z - 1))
            corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T
            apart = (qform - sform) @ np.column_stack([corners, np.ones(len(corners))]).T
            in_voxels = np.abs(np.linalg.solve(sform[:, :3], apart)).max(0)
            if in_voxels[0] > _FIRST_VOXEL or in_voxels.max() > _CORNERS:
                far = np.linalg.norm(apart, axis=0).max() * factor
                notes.append(
                    f"its sform (code {self.sform_code}) and qform (code {self.qform_code}) disagree: they place "
                    f"voxels up to {far:.3g} mm apart; the sform counts"
                )
        sizes = np.linalg.norm(sform[:, :3], axis=0)
        if np.abs(self.sizes / sizes - 1).max() > _SIZES:
            notes.append(
                f"its voxel sizes (pixdim {_joined(self.sizes)}) and its sform ({_joined(sizes)}) disagree; "
                "the sform counts"
            )
        return notes

    def is_of(self, geometry: Geometry) -> bool:
        """Whether this orientation gives exactly the grid of a geometry."""
        try:
            affine, _ = self.affine(geometry.shape_zyx)
            if is_sheared(affine.matrix):
                return False
            grid = straight_grid(Path(), affine, "no").geometry
        except (FileProblem, ValueError):
            return False
        return grid.difference(geometry) is None

    def write_into(self, header: bytearray) -> None:
        """Write the fields into a NIfTI-1 header of little-endian numbers."""
        codes = [code if 0 <= code <= 5 else 2 for code in (self.qform_code, self.sform_code)]
        struct.pack_into("<4f", header, 76, *_single(self.pixdim))
        header[123] = header[123] & ~7 | self.unit
        struct.pack_into("<2h", header, 252, *codes)
        struct.pack_into("<6f", header, 256, *_single((*self.quaternion, *self.offset)))
        struct.pack_into("<12f", header, 280, *_single(self.sform))


def _single(numbers: Sequence[float]) -> list[float]:
    """The numbers that single precision can hold, 0 for others: unused NIfTI-2 matrices may hold junk."""
    return [0.0 if abs(number) > 3e38 else float(number) for number in numbers]


def orientation_of(geometry: Geometry) -> NiftiOrientation:
    """The fields for the position of a grid, sform and qform alike."""
    factor = 1000.0 if geometry.unit == "um" else 1.0
    matrix = geometry.affine[:3] * _RAS_TO_LPS[:, None]
    matrix = matrix * factor
    turn = geometry.matrix * _RAS_TO_LPS[:, None]
    flipped = bool(np.linalg.det(turn) < 0)
    if flipped:
        turn = turn * (1.0, 1.0, -1.0)
    sx, sy, sz = (float(v) * factor for v in geometry.spacing_xyz)
    x, y, z = (float(v) for v in matrix[:, 3])
    return NiftiOrientation(
        pixdim=(-1.0 if flipped else 1.0, sx, sy, sz),
        qform_code=1,
        sform_code=1,
        quaternion=_quaternion(turn),
        offset=(x, y, z),
        sform=tuple(float(v) for v in matrix.ravel()),
        unit=MICROMETRE if geometry.unit == "um" else MILLIMETRE,
    )


def _quaternion(turn: NDArray[np.float64]) -> tuple[float, float, float]:
    """b, c, d of a rotation whose a is not negative: the eigenvector of Bar-Itzhack (2000, doi 10.2514/2.4654)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turn
    k = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, yx + xy, zx + xz],
            [xz - zx, yx + xy, yy - xx - zz, zy + yz],
            [yx - xy, zx + xz, zy + yz, zz - xx - yy],
        ]
    )
    a, b, c, d = np.linalg.eigh(k)[1][:, -1]
    sign = -1.0 if a < 0 else 1.0
    return float(b * sign), float(c * sign), float(d * sign)


def _are_lengths(sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((sizes > 1 / _LONGEST) & (sizes < _LONGEST))


def _is_usable(matrix: NDArray[np.float64]) -> bool:
    if not (np.abs(matrix) < _LONGEST).all():
        return False
    sizes = np.linalg.norm(matrix[:, :3], axis=0)
    return bool(_are_lengths(sizes).all() and abs(np.linalg.det(matrix[:, :3] / sizes)) > 1e-6)


def _joined(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
