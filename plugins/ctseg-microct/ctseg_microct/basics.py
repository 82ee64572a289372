"""Fractions, surfaces, lineal paths and representative windows, each by one pass over the volume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.volume.memory_map import drop_pages
from ctseg.volume.run_lengths import find_runs
from ctseg_microct.blocks import Block, blocks
from ctseg_microct.phases import SLAB_VOXELS, Phases
from ctseg_microct.surface import area_per_crossing, contacts

BASE_CELLS = 64
BLOCK_CELLS = 128
"""Edge of the blocks of cells in which windows begin; the widest windows reach beyond it."""
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
    """Fraction of each phase in cubic windows of growing edge (mm): mean, deviation and number of windows.

    Windows consist of cells, which are counted block by block: memory does not grow with the map.
    """
    spacing = np.array(phases.spacing_zyx)
    extent = spacing * phases.shape_zyx
    step = max(float(extent.min()) / BASE_CELLS, float(spacing.max()))
    cell = np.maximum(1, np.round(step / spacing).astype(int))
    grid = np.array(phases.shape_zyx) // cell
    edges = sorted({max(1, round(2 ** (k / 2))) for k in range(2 * BASE_CELLS.bit_length())})
    edges = [edge for edge in edges if edge <= grid.min() // 2]
    if not edges:
        return [[] for _ in phases.values]
    spreads = [[_Spread() for _ in edges] for _ in phases.values]
    z, y, x = grid.tolist()
    reach = edges[-1]
    for block in blocks((z, y, x), BLOCK_CELLS, (0, 0, 0), (reach, reach, reach)):
        for table, rows in zip(_count_cells(phases, cell, block), spreads, strict=True):
            total = np.zeros([n + 1 for n in table.shape], np.int64)
            inner = total[1:, 1:, 1:]
            inner[...] = table
            for axis in range(3):
                np.cumsum(inner, axis, out=inner)
            for edge, spread in zip(edges, rows, strict=True):
                spread.add(_sums(total, edge, block) / (edge**3 * cell.prod()))
    length = float(np.cbrt((cell * spacing).prod()))
    return [
        [
            {
                "edge": edge * length,
                "windows": spread.count,
                "mean": spread.mean,
                "deviation": math.sqrt(spread.squares / spread.count),
            }
            for edge, spread in zip(edges, rows, strict=True)
        ]
        for rows in spreads
    ]


@dataclass
class _Spread:
    """Number, mean and sum of squared deviations of values that come in parts."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        if not values.size:
            return
        before, self.count = self.count, self.count + values.size
        share, apart = values.size / self.count, float(values.mean()) - self.mean
        self.squares += float(values.var()) * values.size + apart**2 * before * share
        self.mean += apart * share


def _count_cells(phases: Phases, cell: NDArray[Any], block: Block) -> NDArray[Any]:
    """Voxels of each phase in the cells of a block and its halo, [phase, Z, Y, X].

    Args:
        cell: [3] voxels of a cell along z, y and x.
    """
    low, high = (cell * block.outer_start).tolist(), (cell * block.outer_stop).tolist()
    depth, height, width = cell.tolist()
    planes, rows, columns = np.subtract(block.outer_stop, block.outer_start).tolist()
    kind = np.min_scalar_type(int(cell.prod()))
    counts = np.zeros((len(phases), planes, rows, columns), kind)
    thick = max(1, SLAB_VOXELS // (rows * height * columns * width))
    for plane in range(planes):
        bottom = low[0] + plane * depth
        for z in range(bottom, bottom + depth, thick):
            top = min(z + thick, bottom + depth)
            slab = phases.read((z, low[1], low[2]), (top, high[1], high[2]))
            cut = slab.reshape(top - z, rows, height, columns, width)
            for at in range(len(phases)):
                counts[at, plane] += (cut == at).sum(axis=(0, 2, 4), dtype=kind)
    return counts


def _sums(total: NDArray[np.int64], edge: int, block: Block) -> NDArray[np.int64]:
    """Sums in the windows of an edge, half an edge apart, that begin in a block.

    Args:
        total: cumulated sums of the block and its halo, with a plane of zeros before them along each axis.
    """
    step = max(1, edge // 2)
    for axis, (start, stop) in enumerate(zip(block.start, block.stop, strict=True)):
        first = -start % step
        end = max(first, min(stop - start, total.shape[axis] - edge))
        total = np.moveaxis(total, axis, 0)
        total = total[first + edge : end + edge : step] - total[first:end:step]
        total = np.moveaxis(total, 0, axis)
    return total


def representative(rows: list[dict[str, Any]]) -> float | None:
    """The smallest edge from which on every window's deviation is below 5 % of the mean; None if there is none."""
    edge = None
    for row in reversed(rows):
        if not row["mean"] or row["deviation"] > SPREAD * row["mean"]:
            break
        edge = row["edge"]
    return edge
