"""Grains that a boundary class parts: each voxel of the boundary goes to the nearest grain."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ctseg.errors import BadInput
from ctseg.volume.scratch import scratch
from ctseg_microct.blocks import blocks, edge_for
from ctseg_microct.grains import renumber
from ctseg_microct.parts import Numbered, number_parts
from ctseg_microct.phases import Phases, read_box

HALO = 16
"""Voxels of the finest axis beyond which the boundary stays without a grain."""


def give_boundary(phases: Phases, boundary: int, memory: int) -> Numbered:
    """The parts of all other phases but the background, grown over the boundary class.

    Raises:
        BadInput: there is no other phase.
    """
    grains = [at for at, value in enumerate(phases.values) if value != 0 and at != boundary]
    if not grains:
        raise BadInput(
            "A boundary class needs another label, that of the grains.",
            hint="Name both: --labels grain=1,wall=2",
        )
    parts = number_parts(phases)
    inner = np.isin(parts.phase, grains)
    grown = scratch(phases.shape_zyx, np.int32)
    table = np.concatenate(([0], np.where(inner, np.cumsum(inner), 0))).astype(np.int32)
    finest = min(phases.spacing_zyx)
    limit = HALO * finest
    halo = tuple(int(limit / s) + 1 for s in phases.spacing_zyx)
    for block in blocks(phases.shape_zyx, edge_for(memory, 60, max(halo)), halo):  # type: ignore[arg-type]
        number = table[read_box(parts.map, block.outer_start, block.outer_stop)]
        edge = phases.read(block.outer_start, block.outer_stop) == boundary
        if edge[block.inner].any() and (number > 0).any():
            far, near = ndimage.distance_transform_edt(
                number == 0, phases.spacing_zyx, return_indices=True
            )
            number = np.where(edge & (far <= limit), number[tuple(near)], number)
        place = tuple(slice(a, b) for a, b in zip(block.start, block.stop, strict=True))
        grown[place] = number[block.inner]
    count = int(inner.sum())
    out = renumber(grown, np.arange(1, count + 1), 0, memory)
    return Numbered(out.map, parts.phase[inner], out.size, out.box)
