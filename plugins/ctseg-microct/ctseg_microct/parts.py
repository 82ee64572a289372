"""Connected parts of every phase, numbered over the whole volume, and percolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.volume.components import runs_by_slab
from ctseg.volume.joining import Joining, parts_within
from ctseg.volume.memory_map import drop_pages
from ctseg.volume.run_lengths import draw_runs, find_runs
from ctseg.volume.scratch import scratch
from ctseg_microct.phases import Phases

AXES = ("z", "y", "x")


@dataclass(frozen=True)
class Numbered:
    """Objects of all phases.

    Attributes:
        map: [Z, Y, X] int32, 0 where there is no object, else the object's number from 1.
        phase: [N] phase of each object.
        size: [N] voxels.
        box: [N, 3, 2] first and last + 1 voxel along z, y, x.
    """

    map: NDArray[np.int32]
    phase: NDArray[np.int64]
    size: NDArray[np.int64]
    box: NDArray[np.int64]


def number_parts(phases: Phases) -> Numbered:
    """The connected parts of each phase; voxels touch by faces."""
    kinds = len(phases)

    def groups(values: NDArray[Any]) -> NDArray[Any]:
        return np.where(values < kinds, values.astype(np.int64) + 1, 0)

    joining = Joining(phases.shape_zyx, groups, 6, boxes=True)
    for start, runs in runs_by_slab(phases.index, groups, 2**26):
        joining.add(start, runs)
    parts = joining.result()
    out = scratch(phases.shape_zyx, np.int32)
    for slab in parts.slabs:
        runs = find_runs(np.asarray(phases.index[slab.start : slab.stop]), groups)
        number = parts.of(slab)[parts_within(runs, 6)]
        out[slab.start : slab.stop] = draw_runs(runs, (number + 1).astype(np.int32))
        drop_pages(out[slab.start : slab.stop])
        drop_pages(phases.index[slab.start : slab.stop])
    assert parts.box_zyx is not None
    return Numbered(out, parts.group - 1, parts.size, parts.box_zyx)


def connectivity(phases: Phases, parts: Numbered) -> list[dict[str, Any]]:
    """Parts of each phase, the share of the largest, and the share that spans the volume along each axis."""
    shape = np.array(phases.shape_zyx)
    spans = (parts.box[:, :, 0] == 0) & (parts.box[:, :, 1] == shape)
    out = []
    for at, voxels in enumerate(phases.voxels):
        own = parts.phase == at
        size = parts.size[own]
        out.append(
            {
                "parts": int(own.sum()),
                "largest_share": float(size.max() / voxels) if voxels else 0.0,
                "percolating_share": {
                    axis: float(parts.size[own & spans[:, k]].sum() / voxels) if voxels else 0.0
                    for k, axis in enumerate(AXES)
                },
            }
        )
    return out
