"""Fibre orientation: from grey values by the structure tensor, or from vectors that a network has predicted.

The gradient of the smoothed scan is multiplied by itself and averaged around each voxel; fibres follow the direction
in which grey values change least (Krause et al., NDT&E International 43, 2010). Blocks have a halo as wide as both
filters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ctseg.errors import BadInput
from ctseg.specs import VolumeSource
from ctseg.volume.geometry import check_same
from ctseg.volume.spool import by_region
from ctseg_microct.blocks import Block, blocks, edge_for
from ctseg_microct.phases import Phases

FINE, WIDE = 1.0, 3.0
"""Standard deviations of the gradient and of the average, in voxels of the coarsest axis."""
STRIDE = 2
"""Every second voxel along each axis counts, since neighbours share their average."""
CUT = 3.0
RINGS, SECTORS = 9, 36
VOXEL_BYTES = 120


def orientation(phases: Phases, scan: VolumeSource, memory: int) -> list[dict[str, Any]]:
    """The averaged orientation tensor, its principal axes and a pole figure of each phase, in the scan's coordinates.

    Args:
        scan: one channel of grey values, three of vectors (x, y, z), or three for each phase in order.
    """
    check_same(
        scan.geometry,
        phases.geometry,
        names=("the scan", "the label map"),
        files=(scan.path, scan.path),
    )
    if scan.channels not in (1, 3, 3 * len(phases)):
        raise BadInput(
            f"{scan.path} has {scan.channels} channels; orientation takes 1 (grey values), 3 (a vector x, y, z) or "
            f"{3 * len(phases)} (a vector for each label).",
            hint="Choose the labels with --labels.",
        )
    reader = by_region(scan)
    spacing = np.array(phases.spacing_zyx)
    sigma = [[s * spacing.max() / step for step in spacing] for s in (FINE, WIDE)]
    halo: Any = (0, 0, 0)
    if scan.channels == 1:
        halo = tuple(
            int(CUT * a + 0.5) + int(CUT * b + 0.5) + 1 for a, b in zip(*sigma, strict=True)
        )
    tensor, count = np.zeros((len(phases), 3, 3)), np.zeros(len(phases), np.int64)
    poles = np.zeros((len(phases), RINGS, SECTORS), np.int64)
    matrix = np.array(phases.geometry.direction)
    for block in blocks(phases.shape_zyx, edge_for(memory, VOXEL_BYTES, max(halo)), halo):
        places = tuple(slice((-a) % STRIDE, None, STRIDE) for a in block.start)
        index = phases.read(block.start, block.stop)[places]
        if not (index < len(phases)).any():
            continue
        data = reader.read_box(block.outer_start, block.outer_stop)
        for at in range(len(phases)):
            own = index == at
            if not own.any():
                continue
            if scan.channels == 1:
                xyz = _along(data[0], block, sigma, spacing, own, places)
            else:
                three = data[3 * at : 3 * at + 3] if scan.channels > 3 else data
                xyz = np.moveaxis(three[(slice(None), *places)], 0, -1)[own].astype(float)
            length = np.linalg.norm(xyz, axis=1)
            xyz = (xyz[length > 0] / length[length > 0, None]) @ matrix.T
            xyz *= np.where(xyz[:, 2:] < 0, -1, 1)
            tensor[at] += xyz.T @ xyz
            count[at] += len(xyz)
            poles[at] += _pole_figure(xyz)
    return [_result(t, int(n), p) for t, n, p in zip(tensor, count, poles, strict=True)]


def structure_tensor(
    scan: NDArray[Any], sigma: Any, spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[6, Z, Y, X]: zz, zy, zx, yy, yx, xx of the averaged products of the gradient (per mm)."""
    grey = np.asarray(scan, np.float64)
    slope = [
        ndimage.gaussian_filter(
            grey, sigma[0], order=[int(k == axis) for k in range(3)], mode="nearest", truncate=CUT
        )
        / spacing[axis]
        for axis in range(3)
    ]
    both = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    return np.stack(
        [
            ndimage.gaussian_filter(slope[i] * slope[j], sigma[1], mode="nearest", truncate=CUT)
            for i, j in both
        ]
    )


def _along(data: Any, block: Block, sigma: Any, spacing: Any, own: Any, places: Any) -> Any:
    six = structure_tensor(data, sigma, spacing)[(slice(None), *block.inner)]
    z2, zy, zx, y2, yx, x2 = six[(slice(None), *places)][:, own]
    full = np.stack([x2, yx, zx, yx, y2, zy, zx, zy, z2], -1).reshape(-1, 3, 3)
    full = full[full.trace(axis1=1, axis2=2) > 0]
    return np.linalg.eigh(full)[1][:, :, 0]


def _pole_figure(xyz: NDArray[np.float64]) -> NDArray[np.int64]:
    """Directions in cells of equal area of the upper half of the sphere, [ring, sector]."""
    ring = np.minimum(((1 - np.clip(xyz[:, 2], 0, 1)) * RINGS).astype(int), RINGS - 1)
    turn = np.mod(np.arctan2(xyz[:, 1], xyz[:, 0]) / (2 * np.pi), 1)
    sector = np.minimum((turn * SECTORS).astype(int), SECTORS - 1)
    return np.bincount(ring * SECTORS + sector, minlength=RINGS * SECTORS).reshape(RINGS, SECTORS)


def _result(tensor: Any, count: int, poles: NDArray[np.int64]) -> dict[str, Any]:
    if not count:
        return {
            "voxels": 0,
            "tensor": None,
            "shares": None,
            "main_direction": None,
            "pole_figure": None,
        }
    mean = tensor / count
    values, vectors = np.linalg.eigh(mean)
    main = vectors[:, 2] * (-1 if vectors[2, 2] < 0 else 1)
    return {
        "voxels": count,
        "tensor": mean.tolist(),
        "shares": values[::-1].tolist(),
        "main_direction": main.tolist(),
        "pole_figure": (poles / count).tolist(),
    }
