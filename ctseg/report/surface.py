"""Closed surfaces of label maps, smoothed so that their volume stays, in millimetres in LPS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from ctseg.report.extras import optional
from ctseg.volume.geometry import Geometry

_PASSES = (0.5, -0.53)
"""Steps of Taubin's smoothing: forth and back, so that the surface does not shrink."""
_MUCH = 1.3
"""Ratio of the wanted volume to the volume of a smoothed part from which the part is scaled."""


@dataclass(frozen=True)
class Surface:
    """A closed surface of triangles whose normals point outwards.

    Attributes:
        points_xyz: [N, 3] in millimetres, LPS.
        triangles: [M, 3] indices of points, counter-clockwise from outside.
    """

    points_xyz: NDArray[np.float64]
    triangles: NDArray[np.int64]

    @property
    def volume_mm3(self) -> float:
        """Enclosed volume, by the divergence theorem."""
        volumes, _, _ = _measured(self, np.zeros(len(self.triangles), np.int64), 1)
        return float(volumes[0])


def surface_of(
    inside: NDArray[Any], geometry: Geometry, extra: str, *, smooth: int = 10
) -> Surface | None:
    """The surface of a mask by marching cubes, smoothed (Taubin 1995) and then brought back to the mask's volume.

    Parts that are not connected keep their volumes one by one.

    Where the mask touches the border of its array, the surface is closed there.

    Args:
        inside: a mask, or the fraction of each voxel that is inside, 0..1, [Z, Y, X].
        geometry: of the array.
        extra: the extra of ctseg that brings scikit-image, for the error.
        smooth: passes of smoothing.

    Returns:
        None where no voxel is more than half inside.

    Raises:
        BadInput: scikit-image is not installed.
    """
    measure = optional("skimage.measure", extra)
    box = _box(inside >= 0.5)
    if box is None:
        return None
    field = np.pad(np.asarray(inside[box], np.float32), 1)
    # Lorensen's cases give a manifold where voxels touch at an edge; Lewiner's, the default, do not
    points_zyx, triangles, _, _ = measure.marching_cubes(field, 0.5, method="lorensen")
    first = np.array([part.start - 1 for part in box])
    points = np.asarray(geometry.position((points_zyx + first)[:, ::-1].astype(np.float64)))
    surface = Surface(points, triangles.astype(np.int64))
    if surface.volume_mm3 < 0:
        surface = Surface(points, surface.triangles[:, ::-1])
    volume = float(field.sum(dtype=np.float64)) * geometry.voxel_volume_mm3
    near = _neighbours(surface)
    count, part_of = connected_components(near, directed=False)
    volumes, areas, _ = _measured(surface, part_of[surface.triangles[:, 0]], count)
    volumes += (volume - volumes.sum()) * areas / areas.sum()  # marching cubes cuts the corners
    return _with_volumes(_smoothed(surface, near, smooth), part_of, volumes)


def surfaces_of(
    label_zyx: NDArray[Any], values: Mapping[str, tuple[int, ...]], geometry: Geometry, extra: str
) -> dict[str, Surface]:
    """The surfaces of labels by name; labels without a voxel are left out.

    Args:
        label_zyx: label values.
        values: label values of each name.

    Raises:
        As `surface_of`.
    """
    found = {}
    for name, chosen in values.items():
        surface = surface_of(np.isin(label_zyx, chosen), geometry, extra)
        if surface is not None:
            found[name] = surface
    return found


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The box of a mask, one voxel wider where the array goes on."""
    spans = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
        if used.size == 0:
            return None
        spans.append(slice(max(0, int(used[0]) - 1), int(used[-1]) + 2))
    return spans[0], spans[1], spans[2]


def _smoothed(surface: Surface, near: csr_array, passes: int) -> Surface:
    """Move each point towards the mean of its neighbours, and back, several times."""
    points = surface.points_xyz
    degree = np.maximum(near.sum(axis=1), 1)[:, None]
    for _ in range(passes):
        for step in _PASSES:
            points = points + step * (near @ points / degree - points)
    return Surface(points, surface.triangles)


def _neighbours(surface: Surface) -> csr_array:
    """1 for each pair of points with a common edge, [N, N]."""
    tri, count = surface.triangles, len(surface.points_xyz)
    ends = np.concatenate([tri[:, [0, 1]], tri[:, [1, 2]], tri[:, [2, 0]]])
    # in a closed surface each edge is run through once in each direction
    return coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count)).tocsr()


def _with_volumes(surface: Surface, part_of: NDArray[Any], wanted: NDArray[Any]) -> Surface:
    """Give each part its volume: by its size where smoothing took much of it, then by moving points along normals."""
    tri, count = surface.triangles, len(wanted)
    part_of_triangle = part_of[tri[:, 0]]
    sizes = np.bincount(part_of, minlength=count)
    middles = [np.bincount(part_of, axis, count) / sizes for axis in surface.points_xyz.T]
    middle = np.stack(middles, axis=1)[part_of]
    volumes, _, _ = _measured(surface, part_of_triangle, count)
    ratio = wanted / np.where(volumes == 0, np.inf, volumes)
    scale = np.where(ratio > _MUCH, np.cbrt(ratio), 1.0)[part_of, None]
    points = middle + (surface.points_xyz - middle) * scale
    for _ in range(4):
        volumes, areas, across = _measured(Surface(points, tri), part_of_triangle, count)
        normals = _sums(np.repeat(across, 3, axis=0), tri.ravel(), len(points))
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        step = (wanted - volumes) / np.maximum(areas, 1e-30)
        points = points + normals / np.maximum(lengths, 1e-30) * step[part_of, None]
    return Surface(points, tri)


def _measured(
    surface: Surface, part_of_triangle: NDArray[Any], count: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Volume and area of each part, and the normal of each triangle with twice its area as length."""
    points = surface.points_xyz - surface.points_xyz.mean(axis=0)
    a, b, c = (points[surface.triangles[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    volumes = np.bincount(part_of_triangle, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6, count)
    areas = np.bincount(part_of_triangle, np.linalg.norm(across, axis=1) / 2, count)
    return volumes, areas, across


def _sums(vectors: NDArray[Any], group: NDArray[Any], count: int) -> NDArray[np.float64]:
    """The sum of the vectors of each group, [count, 3]."""
    return np.stack([np.bincount(group, axis, count) for axis in vectors.T], axis=1)
