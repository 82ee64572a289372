"""Whether the smallest blocks of a measurement fit the memory: their halo grows with the reach."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable

from ctseg.errors import BadInput
from ctseg_microct import correlation, grains, thickness
from ctseg_microct.blocks import LEAST_EDGE, least_bytes
from ctseg_microct.phases import Phases


def check_correlation(phases: Phases, reach: float, memory: int) -> None:
    """Refuse correlations whose smallest transform takes more than the memory.

    Args:
        reach: longest distance, in voxels of the finest axis.

    Raises:
        BadInput: the message names a reach that fits, and the memory that is needed.
    """
    shape, finest = phases.shape_zyx, min(phases.spacing_zyx)

    def needed(voxels: float) -> int:
        lags = correlation.reach_voxels(shape, phases.spacing_zyx, voxels * finest)
        size = correlation.transform_size(shape, lags, LEAST_EDGE)
        return math.prod(size) * correlation.SPECTRUM_BYTES

    if needed(reach) > memory:
        raise _too_little("Correlations", reach, _widest(needed, reach, memory), needed, phases)


def check_thickness(phases: Phases, reach: float, memory: int) -> None:
    """The same for local thickness, if some phase is as wide as the radius that fits."""
    _check_width(
        "Local thickness", phases, range(len(phases)), reach, memory,
        lambda radius: least_bytes(
            phases.shape_zyx, thickness.VOXEL_BYTES,
            thickness.halo_of(2 * (radius + 1), phases.spacing_zyx),
        ),
    )  # fmt: skip


def check_grains(phases: Phases, phase: int, reach: float, memory: int) -> None:
    """The same for the grains of a phase."""
    _check_width(
        "Parting grains", phases, [phase], reach, memory,
        lambda radius: least_bytes(
            phases.shape_zyx, grains.VOXEL_BYTES, thickness.halo_of(radius + 2, phases.spacing_zyx)
        ),
    )  # fmt: skip


def _check_width(
    what: str,
    phases: Phases,
    chosen: Iterable[int],
    reach: float,
    memory: int,
    needed: Callable[[float], int],
) -> None:
    """Blocks are as large as the widest part of a phase requires, so a reach beyond it costs nothing."""
    if needed(reach) <= memory:
        return
    fits = _widest(needed, reach, memory)
    if any(thickness.largest_radius(phases, at, max(1.0, fits), memory) >= fits for at in chosen):
        raise _too_little(what, reach, fits, needed, phases)


def _widest(needed: Callable[[float], int], reach: float, memory: int) -> int:
    """The largest whole number of voxels up to a reach whose blocks fit; 0 without one."""
    return bisect.bisect_right(range(1, int(reach) + 1), memory, key=needed)


def _too_little(
    what: str, reach: float, fits: int, needed: Callable[[float], int], phases: Phases
) -> BadInput:
    size = needed(reach)
    shorter = f" or measure less far: --reach {fits * min(phases.spacing_zyx):.6g}" if fits else ""
    return BadInput(
        f"{what} up to {reach:.4g} voxels need blocks of {math.ceil(size / 1e6)} MB, more than half of --memory.",
        hint=f"Allow more: --memory {math.ceil(2 * size / 1e6)}M{shorter}",
    )
