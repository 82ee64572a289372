"""What the formats share that know grids and label names: NIfTI, NRRD, MetaImage and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import BadInput, FileProblem
from ctseg.specs import Label
from ctseg.volume.geometry import Geometry

DTYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64",
)  # fmt: skip


def make_geometry(
    path: Path,
    shape_zyx: Sequence[int],
    spacing_xyz: Sequence[float],
    origin_xyz: Sequence[float],
    matrix: NDArray[np.float64],
    unit: str = "mm",
) -> Geometry:
    """A geometry whose problems name the file; directions that are nearly orthonormal are made so.

    Raises:
        FileProblem: what keeps the header's numbers from being a grid.
    """
    z, y, x = shape_zyx
    sx, sy, sz = spacing_xyz
    ox, oy, oz = origin_xyz
    try:
        return Geometry((z, y, x), (sx, sy, sz), (ox, oy, oz), rows(orthonormal(matrix)), unit=unit)
    except BadInput as error:
        raise FileProblem(f"{path}: {error.message}", hint=error.hint) from error


def orthonormal(matrix: NDArray[np.float64], tolerance: float = 1e-3) -> NDArray[np.float64]:
    """The nearest orthonormal matrix where that is within a tolerance, else the matrix itself.

    The polar factor U V^T of the singular value decomposition is the nearest in the Frobenius norm
    (Higham 1986, doi 10.1137/0907079). Headers store single-precision numbers, often of six digits.
    """
    if not np.isfinite(matrix).all():
        return matrix
    u, _, vt = np.linalg.svd(matrix)
    nearest: NDArray[np.float64] = u @ vt
    return nearest if np.abs(nearest - matrix).max() <= tolerance else matrix


def rows(matrix: NDArray[np.float64]) -> tuple[Any, Any, Any]:
    """A 3x3 array as the tuple of tuples that `Geometry` holds."""
    one, two, three = (tuple(float(v) for v in row) for row in matrix)
    return one, two, three


def slicer_segments(labels: Sequence[Label], geometry: Geometry) -> dict[str, str]:
    """3D Slicer's `Segment` fields: name, colour and value of each label, so that it opens as a segmentation."""
    from ctseg.task import PALETTE

    z, y, x = geometry.shape_zyx
    fields: dict[str, str] = {}
    foreground = [label for label in labels if label.value != 0]
    for index, label in enumerate(foreground):
        colour = label.colour or PALETTE[index % len(PALETTE)]
        prefix = f"Segment{index}_"
        fields |= {
            f"{prefix}ID": label.name,
            f"{prefix}Name": label.name,
            f"{prefix}Color": " ".join(f"{c / 255:.6g}" for c in colour),
            f"{prefix}LabelValue": str(label.value),
            f"{prefix}Layer": "0",
            f"{prefix}Extent": f"0 {x - 1} 0 {y - 1} 0 {z - 1}",
        }
    return fields
