"""Local thickness: the diameter of the largest sphere that lies within the phase and covers a point.

(Hildebrand and Rueegsegger, Journal of Microscopy 185, 1997.) A point's value depends on the phase within twice the
radius of the largest sphere, so blocks have a halo of that width. Radii are cut at the reach, and the share of voxels
that are at this limit is reported, since no halo can bound it.
"""

from __future__ import annotations

from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from ctseg.machine import cores
from ctseg_microct.blocks import Block, blocks, edge_for
from ctseg_microct.phases import Phases

VOXEL_BYTES = 12
FINENESS = 0.06
"""Relative step of the radii; at least one voxel."""


def distances(
    mask: NDArray[np.bool_], spacing_zyx: tuple[float, float, float], limit: float
) -> NDArray[np.float32]:
    """Distance of each voxel of a mask to the nearest other voxel, in voxels of the finest axis, cut at a limit.

    What lies outside the array does not count.
    """
    finest = min(spacing_zyx)
    steps = tuple(s / finest for s in spacing_zyx)
    out = edt.edt(
        np.ascontiguousarray(mask), anisotropy=steps, black_border=False, parallel=cores()
    )
    result: NDArray[np.float32] = np.minimum(out, np.float32(limit), out=out)
    return result


def halo_of(radius: float, spacing_zyx: tuple[float, float, float]) -> tuple[int, int, int]:
    """Voxels along z, y, x within a radius in voxels of the finest axis, and one more."""
    finest = min(spacing_zyx)
    z, y, x = (int(np.ceil(radius * finest / s)) + 1 for s in spacing_zyx)
    return z, y, x


def largest_radius(phases: Phases, phase: int, reach: float, memory: int) -> float:
    """The largest distance to the border of a phase, cut at the reach; in voxels of the finest axis."""
    limit = min(8.0, reach)
    while True:
        halo = halo_of(limit, phases.spacing_zyx)
        most = 0.0
        for block in blocks(phases.shape_zyx, edge_for(memory, VOXEL_BYTES, max(halo)), halo):
            mask = phases.read(block.outer_start, block.outer_stop) == phase
            if mask[block.inner].any():  # in the halo, distances may be too long
                depth = distances(mask, phases.spacing_zyx, limit)
                most = max(most, float(depth[block.inner].max()))
            if most >= limit:
                break
        if most < limit or limit >= reach:
            return most
        limit = min(2 * limit, reach)


def radii_up_to(most: float) -> list[float]:
    """Radii in voxels at which thickness is measured."""
    out = [1.0]
    while out[-1] + max(1.0, FINENESS * out[-1]) <= most + 1e-4:
        out.append(out[-1] + max(1.0, FINENESS * out[-1]))
    return out


def thickness_block(
    phases: Phases, phase: int, block: Block, radii: list[float], limit: float
) -> NDArray[np.int16]:
    """For each voxel of a block the number of its radius, from 1; 0 outside the phase."""
    outer = phases.read(block.outer_start, block.outer_stop) == phase
    out = np.zeros(outer[block.inner].shape, np.int16)
    core = outer[block.inner]
    if not core.any():
        return out
    depth = distances(outer, phases.spacing_zyx, limit)
    most = float(depth.max())
    for at in range(len(radii) - 1, -1, -1):
        radius = np.float32(radii[at] - 1e-4)
        if most < radius:
            continue
        left = core & (out == 0)
        if not left.any():
            break
        if at == 0:
            out[left] = 1
            break
        out[left & _near(depth, radius, block.inner, phases.spacing_zyx)] = at + 1
    return out


def _near(
    depth: NDArray[np.float32],
    radius: np.float32,
    inner: tuple[slice, slice, slice],
    spacing_zyx: tuple[float, float, float],
) -> NDArray[np.bool_]:
    """Where spheres of a radius that fit into the phase reach, within the inner block.

    Only centres within the radius of the inner block count, so that much of the halo is looked at.
    """
    halo = halo_of(float(radius), spacing_zyx)
    box = tuple(slice(max(0, s.start - h), s.stop + h) for s, h in zip(inner, halo, strict=True))
    away = distances(depth[box] < radius, spacing_zyx, float(radius) + 1)
    within: NDArray[np.bool_] = away < radius
    return within[
        tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(inner, box, strict=True))
    ]


def thickness(phases: Phases, phase: int, reach: float, memory: int) -> dict[str, Any]:
    """Distribution of the local thickness of a phase, by volume; lengths in mm.

    Args:
        reach: largest radius, in voxels of the finest axis.
    """
    most = largest_radius(phases, phase, reach, memory)
    radii = radii_up_to(most)
    limit = radii[-1] + 1
    halo = halo_of(2 * limit, phases.spacing_zyx)
    counts = np.zeros(len(radii) + 1, np.int64)
    for block in blocks(phases.shape_zyx, edge_for(memory, VOXEL_BYTES, max(halo)), halo):
        found = thickness_block(phases, phase, block, radii, limit)
        counts += np.bincount(found.ravel(), minlength=len(counts))
    share = counts[1:] / max(1, counts[1:].sum())
    size = 2 * np.array(radii) * min(phases.spacing_zyx)
    mean = float((share * size).sum())
    middle = int(np.searchsorted(np.cumsum(share), 0.5))
    return {
        "mean": mean,
        "deviation": float(np.sqrt((share * (size - mean) ** 2).sum())),
        "median": float(size[min(middle, len(size) - 1)]),
        "largest": float(size[-1]),
        "share_at_limit": float(share[-1]) if most >= reach else 0.0,
        "distribution": [
            {"diameter": float(d), "voxels": int(n), "share": float(s)}
            for d, n, s in zip(size, counts[1:], share, strict=True)
        ],
    }
