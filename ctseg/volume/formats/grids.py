"""The grids that headers give: nearly orthonormal directions corrected, errors with the name of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.volume.geometry import Geometry, as_matrix


def make_geometry(
    path: Path,
    shape_zyx: Sequence[int],
    spacing_xyz: Sequence[float],
    origin_xyz: Sequence[float],
    matrix: NDArray[np.float64],
    unit: str = "mm",
) -> Geometry:
    """A geometry from a header's numbers; directions that are nearly orthonormal are corrected.

    Raises:
        FileProblem: the numbers are not a grid; the message names the file.
    """
    z, y, x = shape_zyx
    sx, sy, sz = spacing_xyz
    ox, oy, oz = origin_xyz
    try:
        return Geometry(
            (z, y, x), (sx, sy, sz), (ox, oy, oz), as_matrix(orthonormal(matrix)), unit=unit
        )
    except BadInput as error:
        raise FileProblem(f"{path}: {error.message}", hint=error.hint) from error


def orthonormal(matrix: NDArray[np.float64], tolerance: float = 1e-3) -> NDArray[np.float64]:
    """The nearest orthonormal matrix if it is within a tolerance, else the matrix itself.

    The polar factor U V^T of the singular value decomposition is the nearest in the Frobenius norm
    (Higham 1986, doi 10.1137/0907079). Headers store single-precision numbers, often of six digits.
    """
    if not np.isfinite(matrix).all():
        return matrix
    u, _, vt = np.linalg.svd(matrix)
    nearest: NDArray[np.float64] = u @ vt
    return nearest if np.abs(nearest - matrix).max() <= tolerance else matrix
