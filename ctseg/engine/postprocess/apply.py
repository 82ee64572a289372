"""`postprocess`: applies rules to a label map that may be far larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ctseg.config.postprocess import PostprocessRule
from ctseg.engine.postprocess.holes import fill_holes, fill_holes_in_slices
from ctseg.engine.postprocess.label_values import check_map
from ctseg.engine.postprocess.parts import remove_parts
from ctseg.engine.postprocess.rules import Labels, RuleTarget, rounds_of, targets_of
from ctseg.errors import BadInput
from ctseg.volume.components import SLAB_BYTES, Planes
from ctseg.volume.geometry import Geometry

OnPlanes = Callable[[int, int], None]
"""Called with (planes processed, planes in total over all passes)."""
Pass = Callable[..., dict[str, dict[str, int]]]


def postprocess(
    labels_zyx: Planes,
    labels: Labels,
    rules: Sequence[PostprocessRule],
    *,
    geometry: Geometry,
    slab_bytes: int = SLAB_BYTES,
    progress: OnPlanes | None = None,
) -> dict[str, dict[str, float]]:
    """Post-process a label map, in place.

    Rules for different labels are applied together: all components are removed first, then holes are filled. A second
    rule for the same label is applied after all rules before it.

    Args:
        labels_zyx: written values [Z, Y, X]: an array, a memory-mapped array, or anything read and written by planes.
        labels: the task, or values by name.
        rules: see `PostprocessRule`.
        geometry: geometry of the map; gives the volume of a voxel.
        slab_bytes: working memory for slabs; a table of the connected components takes more.
        progress: called regularly.

    Returns:
        For each label the number of `parts` (connected components), `parts_removed`, `voxels_removed`, `ml_removed`,
        `holes_filled`, `voxels_filled` and `ml_filled`, as far as the rules concern them; plain data for JSON.

    Raises:
        UnknownName: a rule names a label that the task does not have.
        BadInput: the array is not a label map, has another shape than the geometry, or cannot hold a label's value.
    """
    check_map(labels_zyx)
    if tuple(geometry.shape_zyx) != tuple(labels_zyx.shape):
        raise BadInput(
            f"The map has {tuple(labels_zyx.shape)} voxels, its geometry {geometry.shape_zyx}."
        )
    targets = targets_of(labels, rules, geometry)
    plan = [(step, group) for one in rounds_of(targets) for step, group in _steps(one)]
    depth = labels_zyx.shape[0]
    total = depth * sum(1 if s is fill_holes_in_slices else 2 for s, _ in plan)
    done = 0

    def advance(planes: int) -> None:
        nonlocal done
        done += planes
        if progress:
            progress(done, total)

    _check_dtype(labels_zyx, targets)
    report: dict[str, dict[str, float]] = {}
    for step, group in plan:
        changes = step(labels_zyx, group, slab_bytes=slab_bytes, progress=advance)
        for name, counts in changes.items():
            _add(report.setdefault(name, {}), counts, geometry)
    return report


def _steps(targets: Sequence[RuleTarget]) -> list[tuple[Pass, list[RuleTarget]]]:
    """The passes over the map in one round of rules."""
    out: list[tuple[Pass, list[RuleTarget]]] = []
    for connectivity in (26, 18, 6):
        chosen = [t for t in targets if t.filters and t.connectivity == connectivity]
        if chosen:
            out.append((remove_parts, chosen))
    for mode, step in (("3d", fill_holes), ("slices", fill_holes_in_slices)):
        chosen = [t for t in targets if t.fill == mode]
        if chosen:
            out.append((step, chosen))
    return out


def _add(entry: dict[str, float], counts: dict[str, int], geometry: Geometry) -> None:
    for what, number in counts.items():
        # `parts` is the count before the first removal; removed and filled voxels add up over the rules
        entry[what] = entry.get(what, number) if what == "parts" else entry.get(what, 0) + number
    for what in ("removed", "filled"):
        if f"voxels_{what}" in entry:
            entry[f"ml_{what}"] = entry[f"voxels_{what}"] * geometry.voxel_volume_mm3 / 1000


def _check_dtype(labels_zyx: Planes, targets: Sequence[RuleTarget]) -> None:
    """Check that the type of the map holds all values that the rules write."""
    dtype: np.dtype[Any] = np.dtype(labels_zyx.dtype)
    top = 1 if dtype.kind == "b" else np.iinfo(dtype).max
    for target in targets:
        if max(target.written, target.beneath) > top:
            raise BadInput(
                f"'{target.name}' is written as {target.written}, which a map of {dtype} cannot hold."
            )
