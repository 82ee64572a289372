"""Rules applied to a label map that may be far larger than memory."""

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
from ctseg.volume.components import SLAB_BYTES, Planes, planes_at_once
from ctseg.volume.geometry import Geometry
from ctseg.volume.memory_map import drop_array_pages

OnPlanes = Callable[[int, int], None]
"""Told how many planes have been passed, and how many there are to pass in all."""
Pass = Callable[..., dict[str, dict[str, int]]]


def postprocess(
    labels_zyx: Planes,
    labels: Labels,
    rules: Sequence[PostprocessRule],
    *,
    geometry: Geometry,
    out_zyx: Planes | None = None,
    slab_bytes: int = SLAB_BYTES,
    progress: OnPlanes | None = None,
) -> dict[str, dict[str, float]]:
    """Clean a label map up, in place or into another map.

    Rules of different labels are followed together: all parts are removed first, then holes are filled. A rule for a
    label that an earlier one has dealt with starts anew, after all those before it.

    Args:
        labels_zyx: written values [Z, Y, X]: an array, a memory-mapped one, or anything read and written by planes.
        labels: the task, or values by name.
        rules: see `PostprocessRule`.
        geometry: of the map; a voxel's volume tells millilitres.
        out_zyx: takes the result, and leaves the map as it is.
        slab_bytes: of memory to work in; a table of the connected parts comes on top.
        progress: called now and then.

    Returns:
        By label: `parts` found, `parts_removed`, `voxels_removed`, `ml_removed`, `holes_filled`, `voxels_filled` and
        `ml_filled`, as far as the rules asked for them; plain data for JSON.

    Raises:
        UnknownName: a rule for a label that the task does not have.
        BadInput: no label map, a map of another shape, or a value that the map's type cannot hold.
    """
    check_map(labels_zyx)
    if tuple(geometry.shape_zyx) != tuple(labels_zyx.shape):
        raise BadInput(
            f"The map has {tuple(labels_zyx.shape)} voxels, its geometry {geometry.shape_zyx}."
        )
    targets = targets_of(labels, rules, geometry)
    plan = [(step, group) for one in rounds_of(targets) for step, group in _steps(one)]
    depth = labels_zyx.shape[0]
    total = depth * (
        (out_zyx is not None) + sum(1 if s is fill_holes_in_slices else 2 for s, _ in plan)
    )
    done = 0

    def passed(planes: int) -> None:
        nonlocal done
        done += planes
        if progress:
            progress(done, total)

    if out_zyx is not None:
        _copy(labels_zyx, out_zyx, slab_bytes, passed)
        labels_zyx = out_zyx
    _check_room(labels_zyx, targets)
    report: dict[str, dict[str, float]] = {}
    for step, group in plan:
        for name, counts in step(labels_zyx, group, slab_bytes=slab_bytes, progress=passed).items():
            _note(report.setdefault(name, {}), counts, geometry)
    return report


def _steps(targets: Sequence[RuleTarget]) -> list[tuple[Pass, list[RuleTarget]]]:
    """The passes over the map that a round takes."""
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


def _note(entry: dict[str, float], counts: dict[str, int], geometry: Geometry) -> None:
    for what, number in counts.items():
        # Parts are counted before the first removal; what is removed and filled adds up over the rules.
        entry[what] = entry.get(what, number) if what == "parts" else entry.get(what, 0) + number
    for what in ("removed", "filled"):
        if f"voxels_{what}" in entry:
            entry[f"ml_{what}"] = entry[f"voxels_{what}"] * geometry.voxel_volume_mm3 / 1000


def _copy(
    source_zyx: Planes, out_zyx: Planes, slab_bytes: int, passed: Callable[[int], None]
) -> None:
    if tuple(out_zyx.shape) != tuple(source_zyx.shape):
        raise BadInput(
            f"The result has {tuple(out_zyx.shape)} voxels, the map {tuple(source_zyx.shape)}."
        )
    check_map(out_zyx)
    step = planes_at_once(source_zyx, slab_bytes)
    depth = source_zyx.shape[0]
    for start in range(0, depth, step):
        stop = min(start + step, depth)
        out_zyx[start:stop] = source_zyx[start:stop]
        for array in (source_zyx, out_zyx):
            drop_array_pages(array, start, stop)
        passed(stop - start)


def _check_room(labels_zyx: Planes, targets: Sequence[RuleTarget]) -> None:
    """Values that are to be written must fit in."""
    dtype: np.dtype[Any] = np.dtype(labels_zyx.dtype)
    top = 1 if dtype.kind == "b" else np.iinfo(dtype).max
    for target in targets:
        if max(target.written, target.beneath) > top:
            raise BadInput(
                f"'{target.name}' is written as {target.written}, which a map of {dtype} cannot hold."
            )
