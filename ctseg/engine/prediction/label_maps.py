"""Post-processing of whole label maps and masks before they are written, and numbering of objects.

Arrays may be memory-mapped, so they are processed slab by slab.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ctseg.config.postprocess import EVERY_LABEL, PostprocessRule
from ctseg.engine.postprocess import Instances, find_instances, postprocess
from ctseg.engine.prediction.result_files import OutputTransaction, slabs_of
from ctseg.specs import Label, VolumeWriter
from ctseg.volume.components import Planes
from ctseg.volume.geometry import Geometry
from ctseg.volume.memory_map import drop_pages
from ctseg.volume.scratch import scratch

Report = dict[str, dict[str, float]]


def keep_values(map_zyx: NDArray[Any], values: Sequence[int]) -> None:
    """Set all other values to background, in place."""
    for slab in _walk(map_zyx):
        slab[~np.isin(slab, values)] = 0


def decode_masks(masks_kzyx: NDArray[Any], labels: Sequence[Label], dtype: str) -> NDArray[Any]:
    """The label map of masks that may overlap: the later label wins, as in `ctseg.task.decode`."""
    out = np.zeros(masks_kzyx.shape[1:], dtype)
    for mask, label in zip(masks_kzyx, labels, strict=True):
        out[mask > 0] = label.value
    return out


def follow(
    masks_kzyx: NDArray[Any],
    map_zyx: NDArray[Any],
    labels: Sequence[Label],
    members: Mapping[int, Sequence[bool]],
) -> None:
    """Update masks in place where post-processing changed the label map that was derived from them.

    Args:
        members: for each value of the map, which masks contain its voxels.
    """
    table = np.zeros((max([0, *members]) + 1, len(labels)), np.uint8)
    for value, inside in members.items():
        table[value] = inside
    for start, stop in slabs_of(masks_kzyx):
        masks, new = masks_kzyx[:, start:stop], map_zyx[start:stop]
        changed = decode_masks(masks, labels, str(map_zyx.dtype)) != new
        if changed.any():
            masks[:, changed] = table[new[changed]].T
        for plane in (*masks, new):
            drop_pages(plane)


def postprocess_masks(
    masks_kzyx: NDArray[Any],
    labels: Sequence[Label],
    rules: Sequence[PostprocessRule],
    *,
    geometry: Geometry,
    folder: Path | None,
) -> Report:
    """Apply rules to each of several overlapping masks, in place; `postprocess` does so for one map.

    Args:
        masks_kzyx: one binary mask for each label.
        folder: folder for temporary files; the system's by default.
    """
    number = {label.name: index for index, label in enumerate(labels)}
    report: Report = {}
    for rule in rules:
        groups = [(n,) for n in number] if rule.names == (EVERY_LABEL,) else [rule.names]
        for names in groups:
            chosen = [number[name] for name in names]
            title = "+".join(names)
            one = rule.model_copy(update={"label": title})
            if len(chosen) == 1:
                mask = masks_kzyx[chosen[0]]
                changes = postprocess(mask, {title: 1}, [one], geometry=geometry)
            else:
                mask = scratch(masks_kzyx.shape[1:], np.uint8, folder)
                for start, stop in slabs_of(mask):
                    mask[start:stop] = masks_kzyx[chosen, start:stop].any(0)
                changes = postprocess(mask, {title: 1}, [one], geometry=geometry)
                _apply(mask, masks_kzyx, chosen)
            _merge(report, changes)
    return report


def _apply(joined_zyx: NDArray[Any], masks_kzyx: NDArray[Any], chosen: Sequence[int]) -> None:
    """Apply the changes of a joined mask to its members: removed voxels leave all, filled ones join the first."""
    for start, stop in slabs_of(joined_zyx):
        after = joined_zyx[start:stop] > 0
        before = masks_kzyx[chosen, start:stop].any(0)
        for index in chosen:
            masks_kzyx[index, start:stop][before & ~after] = 0
        masks_kzyx[chosen[0], start:stop][after & ~before] = 1


def _merge(report: Report, changes: Report) -> None:
    for name, counts in changes.items():
        entry = report.setdefault(name, {})
        for what, number in counts.items():
            entry[what] = (
                entry.get(what, number) if what == "parts" else entry.get(what, 0) + number
            )


def write_numbers(
    map_zyx: NDArray[Any], files: OutputTransaction, path: Path, options: Mapping[str, Any]
) -> Instances:
    """Number the objects of a label map, and write the number of each voxel's object."""
    objects = find_instances(map_zyx)
    writer = files.open(path, objects.dtype, options=options)
    objects.write(cast(Planes, _WriterPlanes(writer, map_zyx.shape, objects.dtype)))
    return objects


def table_of(objects: Instances, labels: Sequence[Label], voxel_ml: float | None) -> str:
    """A table of the objects, as CSV.

    Args:
        voxel_ml: volume of a voxel; None if it is unknown, which leaves the volumes empty.
    """
    name = {label.value: label.name for label in labels}
    text = io.StringIO()
    text.write("id,label,voxels,ml\n")
    for number, (value, voxels) in enumerate(
        zip(objects.values.tolist(), objects.voxels.tolist(), strict=True), start=1
    ):
        quoted = name.get(value, str(value)).replace('"', '""')
        ml = "" if voxel_ml is None else f"{voxels * voxel_ml:.6g}"
        text.write(f'{number},"{quoted}",{voxels},{ml}\n')
    return text.getvalue()


def objects_by_label(
    objects: Instances, labels: Sequence[Label], voxel_ml: float | None
) -> dict[str, dict[str, float | None]]:
    """For each label the number of objects, and `ml` in total, of the largest and of the median object.

    Args:
        voxel_ml: volume of a voxel; None if it is unknown, and with it those of the objects.
    """
    report: dict[str, dict[str, float | None]] = {}
    for label in labels:
        own = objects.voxels[objects.values == label.value]
        voxels = {
            "ml": float(own.sum()),
            "largest_ml": float(own.max(initial=0)),
            "median_ml": float(np.median(own)) if len(own) else 0.0,
        }
        volumes = {k: None if voxel_ml is None else n * voxel_ml for k, n in voxels.items()}
        report[label.name] = {"count": len(own), **volumes}
    return report


class _WriterPlanes:
    """An array of planes that writes assigned planes to a file, in the order of `Instances.write`."""

    def __init__(self, writer: VolumeWriter, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._writer, self.shape, self.dtype = writer, tuple(shape), dtype

    def __getitem__(self, planes: slice) -> NDArray[Any]:
        empty: NDArray[Any] = np.broadcast_to(
            np.zeros((), self.dtype), (planes.stop - planes.start, *self.shape[1:])
        )
        return empty

    def __setitem__(self, planes: slice, block: NDArray[Any]) -> None:
        self._writer.write(planes.start, block)


def _walk(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start, stop in slabs_of(array):
        slab = array[start:stop]
        yield slab
        drop_pages(slab)
