"""Fractions, surfaces, lineal paths and representative windows, each by one pass over the volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.volume.memory_map import drop_pages
from ctseg.volume.run_lengths import find_runs
from ctseg_microct.phases import Phases
from ctseg_microct.surface import area_per_crossing, contacts

BASE_CELLS = 64
SPREAD = 0.05
"""Relative deviation of the fraction below which a window is representative."""


def fractions(phases: Phases) -> list[dict[str, Any]]:
    """Volume, fraction and surface of each phase, mm, and the area it shares with each other phase."""
    kinds = len(phases) + 1
    crossings = np.zeros((13, kinds, kinds), np.int64)
    for before, slab in phases.slabs(before=1):
        crossings += contacts(slab, before, kinds)
    area = np.tensordot(area_per_crossing(phases.spacing_zyx), crossings, 1)
    area += area.T
    voxel, total = phases.geometry.voxel_volume_mm3, phases.index.size
    return [
        {
            "voxels": count,
            "volume": count * voxel,
            "fraction": count / total,
            "surface": float(area[at].sum()),
            "specific_surface": float(area[at].sum()) / (total * voxel),
            "contact": {
                name: float(area[at, other])
                for other, name in enumerate(phases.names)
                if other != at
            },
        }
        for at, count in enumerate(phases.voxels)
    ]


def chords(phases: Phases, axis: int) -> NDArray[np.int64]:
    """Number of chords by phase and length in voxels, along z, y or x (axis 0, 1, 2)."""
    length = phases.shape_zyx[axis]
    split = 1 if axis == 0 else 0
    other = phases.shape_zyx[split]
    thick = max(1, 2**23 * other // phases.index.size)
    kinds = len(phases)
    out = np.zeros((kinds, length + 1), np.int64)
    for start in range(0, other, thick):
        place = [slice(None)] * 3
        place[split] = slice(start, start + thick)
        slab = np.array(np.moveaxis(phases.index[tuple(place)], axis, -1), order="C")
        if split == 0:
            drop_pages(phases.index[start : start + thick])
        runs = find_runs(slab, lambda v: np.where(v < kinds, v + np.int64(1), 0))
        code = (runs.group - 1) * (length + 1) + runs.length
        out += np.bincount(code, minlength=out.size).reshape(out.shape)
    drop_pages(phases.index)
    return out


def lineal_path(counts: NDArray[np.int64], lines: int, reach: int) -> NDArray[np.float64]:
    """Probability that a segment of 0, 1, ... reach steps lies within one chord, from `chords` of one phase."""
    size = np.arange(len(counts))
    longest = len(counts) - 1
    return np.array(
        [
            float((counts * np.maximum(size - r, 0)).sum()) / (lines * (longest - r))
            for r in range(min(reach, longest - 1) + 1)
        ]
    )


def windows(phases: Phases) -> list[list[dict[str, Any]]]:
    """Fraction of each phase in cubic windows of growing edge (mm): mean, deviation and number of windows."""
    spacing = np.array(phases.spacing_zyx)
    extent = spacing * phases.shape_zyx
    step = max(float(extent.min()) / BASE_CELLS, float(spacing.max()))
    cell = np.maximum(1, np.round(step / spacing).astype(int))
    grid = np.array(phases.shape_zyx) // cell
    counts = np.zeros((len(phases), *grid), np.int64)
    for plane in range(grid[0]):
        z = plane * cell[0]
        slab = np.array(phases.index[z : z + cell[0], : grid[1] * cell[1], : grid[2] * cell[2]])
        drop_pages(phases.index[z : z + cell[0]])
        cut = slab.reshape(cell[0], grid[1], cell[1], grid[2], cell[2])
        for at in range(len(phases)):
            counts[at, plane] = (cut == at).sum(axis=(0, 2, 4))
    edges = sorted({max(1, round(2 ** (k / 2))) for k in range(2 * BASE_CELLS.bit_length())})
    edges = [edge for edge in edges if edge <= grid.min() // 2]
    out = []
    for table in counts:
        total = np.zeros(grid + 1, np.int64)
        total[1:, 1:, 1:] = table.cumsum(0).cumsum(1).cumsum(2)
        rows = []
        for edge in edges:
            share = _sums(total, edge) / (edge**3 * cell.prod())
            mean, spread = float(share.mean()), float(share.std())
            rows.append(
                {
                    "edge": edge * float(np.cbrt((cell * spacing).prod())),
                    "windows": share.size,
                    "mean": mean,
                    "deviation": spread,
                }
            )
        out.append(rows)
    return out


def _sums(total: NDArray[np.int64], edge: int) -> NDArray[np.int64]:
    """Sums in windows of an edge, half an edge apart, from an array of cumulated sums."""
    for axis in range(3):
        total = np.moveaxis(total, axis, 0)
        total = np.moveaxis((total[edge:] - total[:-edge])[:: max(1, edge // 2)], 0, axis)
    return total


def representative(rows: list[dict[str, Any]]) -> float | None:
    """The smallest edge from which on every window's deviation is below 5 % of the mean; None if there is none."""
    edge = None
    for row in reversed(rows):
        if not row["mean"] or row["deviation"] > SPREAD * row["mean"]:
            break
        edge = row["edge"]
    return edge
