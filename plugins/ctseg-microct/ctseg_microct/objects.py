"""Position, extent, axes and shape of every object, summed up block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg_microct.blocks import blocks, edge_for
from ctseg_microct.parts import Numbered
from ctseg_microct.phases import Phases, read_box
from ctseg_microct.surface import DIRECTIONS, area_per_crossing, pairs

VOXEL_BYTES = 60
_SQUARES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def measure_objects(phases: Phases, objects: Numbered, memory: int) -> dict[str, NDArray[Any]]:
    """Columns of all objects, lengths in mm and in the scan's coordinates.

    Axes are those of the ellipsoid with the same second moments; the sphericity is the surface of a sphere of the same
    volume divided by the object's, 1 for a sphere; NaN for an object without a surface, which fills the volume.
    """
    shape, spacing = phases.shape_zyx, np.array(phases.spacing_zyx)
    count = len(objects.size)
    first, second, area = np.zeros((3, count)), np.zeros((6, count)), np.zeros(count)
    reference = objects.box.mean(2) if count else np.zeros((0, 3))
    weights = area_per_crossing(phases.spacing_zyx)
    for block in blocks(shape, edge_for(memory, VOXEL_BYTES, 1), (0, 0, 0), (1, 1, 1)):
        low = tuple(max(0, a - 1) for a in block.start)
        number = read_box(objects.map, low, block.outer_stop)  # type: ignore[arg-type]
        core = number[
            tuple(slice(a - o, b - o) for a, b, o in zip(block.start, block.stop, low, strict=True))
        ]
        places = np.nonzero(core)
        own = core[places] - 1
        known, local = np.unique(own, return_inverse=True)
        offset = [
            (at + start - reference[own, k]) * spacing[k]
            for k, (at, start) in enumerate(zip(places, block.start, strict=True))
        ]
        for k in range(3):
            first[k, known] += np.bincount(local, offset[k], len(known))
        for k, (i, j) in enumerate(_SQUARES):
            second[k, known] += np.bincount(local, offset[i] * offset[j], len(known))
        _add_area(area, number, (block.start, block.stop, low), weights)
    return _columns(phases, objects, (first, second, area), reference)


def _add_area(area: Any, number: Any, place: Any, weights: tuple[float, ...]) -> None:
    """Add the crossings of pairs whose first voxel lies in the block."""
    start, stop, low = place
    for step, weight in zip(DIRECTIONS, weights, strict=True):
        box = tuple(
            slice(max(0, a - o + min(0, s)), min(n, b - o + max(0, s)))
            for a, b, o, s, n in zip(start, stop, low, step, number.shape, strict=True)
        )
        one, two = pairs(number[box], step)
        differ = one != two
        for side in (one[differ], two[differ]):
            side = side[side > 0] - 1
            known, times = np.unique(side, return_counts=True)
            area[known] += weight * times


def _columns(phases: Phases, objects: Numbered, sums: Any, reference: Any) -> dict[str, Any]:
    first, second, area = sums
    spacing, n = np.array(phases.spacing_zyx), np.maximum(objects.size, 1)
    shift = first / n
    covariance = np.zeros((len(n), 3, 3))
    for k, (i, j) in enumerate(_SQUARES):
        covariance[:, i, j] = covariance[:, j, i] = second[k] / n - shift[i] * shift[j]
    covariance += np.diag(spacing**2 / 12)  # the extent of a voxel
    values, vectors = np.linalg.eigh(covariance)
    axes = 2 * np.sqrt(5 * np.maximum(values[:, ::-1], 0))
    index_xyz = (reference + (shift / spacing[:, None]).T)[:, ::-1]
    matrix = np.array(phases.geometry.direction)
    along = vectors[:, ::-1, 2] @ matrix.T
    along *= np.where(along[:, 2:] < 0, -1, 1)
    centre = np.array(phases.geometry.position(index_xyz)).reshape(-1, 3)
    volume = objects.size * phases.geometry.voxel_volume_mm3
    surface = np.where(area > 0, area, np.nan)
    sphericity = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface
    shape = np.array(phases.shape_zyx)
    edge = ((objects.box[:, :, 0] == 0) | (objects.box[:, :, 1] == shape)).any(1)
    columns: dict[str, Any] = {
        "object": np.arange(1, len(n) + 1),
        "label": np.array(phases.names, object)[objects.phase],
        "voxels": objects.size, "volume": volume, "surface": area, "sphericity": sphericity,
        "diameter": np.cbrt(6 * volume / np.pi),
    }  # fmt: skip
    for k, axis in enumerate("xyz"):
        columns[f"centre_{axis}"] = centre[:, k]
    for k, axis in enumerate("xyz"):
        columns[f"first_{axis}"] = objects.box[:, 2 - k, 0]
        columns[f"last_{axis}"] = objects.box[:, 2 - k, 1] - 1
    for k, name in enumerate(("long", "middle", "short")):
        columns[f"axis_{name}"] = axes[:, k]
    for k, axis in enumerate("xyz"):
        columns[f"direction_{axis}"] = along[:, k]
    columns["cut_by_edge"] = edge
    return columns
