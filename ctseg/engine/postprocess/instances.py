"""Numbers the objects (connected components) of a label map."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.postprocess.label_values import check_map, grouping
from ctseg.errors import BadInput
from ctseg.volume.components import SLAB_BYTES, Planes, Progress, find_parts, runs_of_slab
from ctseg.volume.joining import Parts
from ctseg.volume.memory_map import drop_array_pages
from ctseg.volume.run_lengths import Connectivity, Ints, draw_runs


@dataclass(frozen=True)
class Instances:
    """The objects of a label map.

    Attributes:
        voxels: voxels of each object, in the order of the numbers 1..N.
        values: the value of each object in the label map; 1 if all labels are joined.
        labels_zyx: the label map.
        parts: its connected components.
        numbers: the object number of each component; 0 for components that do not count.
    """

    voxels: Ints
    values: Ints
    labels_zyx: Planes
    parts: Parts
    numbers: NDArray[np.uint32]

    @property
    def count(self) -> int:
        return len(self.voxels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds the numbers, uint16 or uint32."""
        return np.dtype(np.uint16 if self.count < 2**16 else np.uint32)

    def write(self, out_zyx: Planes, *, progress: Progress | None = None) -> None:
        """Write the object number of each voxel; 0 for background.

        Args:
            out_zyx: an array of the map's shape; may be the map itself.

        Raises:
            BadInput: the array has another shape, or a type that cannot hold the numbers.
        """
        dtype = np.dtype(out_zyx.dtype)
        if tuple(out_zyx.shape) != tuple(self.labels_zyx.shape):
            raise BadInput(
                f"The numbers of objects need a map of {tuple(self.labels_zyx.shape)} voxels, not "
                f"{tuple(out_zyx.shape)}."
            )
        if dtype.kind not in "iu" or np.iinfo(dtype).max < self.count:
            raise BadInput(
                f"{self.count} objects cannot be numbered in {dtype}.",
                hint=f"Write {self.dtype}, or drop small objects with a minimum size.",
            )
        for slab in self.parts.slabs:
            runs, part = runs_of_slab(self.labels_zyx, self.parts, slab)
            out_zyx[slab.start : slab.stop] = draw_runs(runs, self.numbers[part].astype(dtype))
            for array in (out_zyx, self.labels_zyx):
                drop_array_pages(array, slab.start, slab.stop)
            if progress:
                progress(slab.stop - slab.start)


def find_instances(
    labels_zyx: Planes,
    *,
    values: Collection[int] | None = None,
    joined: bool = False,
    connectivity: Connectivity = 26,
    min_voxels: int = 1,
    slab_bytes: int = SLAB_BYTES,
) -> Instances:
    """Find the connected components of a label map, and number them in the order of their first voxels.

    Args:
        labels_zyx: whole numbers [Z, Y, X]; may be a memory-mapped file far larger than memory.
        values: values of the labels that count; all but 0 by default.
        joined: treat touching components of different labels as one object.
        connectivity: 6, 18 or 26.
        min_voxels: minimum size of an object.
        slab_bytes: working memory for slabs.
    """
    check_map(labels_zyx)
    if values is not None and not values:
        raise BadInput("No label is named, so there are no objects to number.")
    if values is not None:
        chosen = sorted(set(values))
        groups = grouping([chosen] if joined else [(value,) for value in chosen])
    else:
        groups = _any if joined else _each
    parts = find_parts(labels_zyx, groups, connectivity, slab_bytes=slab_bytes)
    large = parts.size >= min_voxels
    numbers = np.where(large, np.cumsum(large), 0).astype(np.uint32)
    object_values = parts.group[large]
    if values is not None and not joined:
        object_values = np.array([0, *chosen], np.int64)[object_values]
    return Instances(parts.size[large], object_values, labels_zyx, parts, numbers)


def _any(values: NDArray[Any]) -> NDArray[Any]:
    foreground: NDArray[Any] = values != 0
    return foreground


def _each(values: NDArray[Any]) -> NDArray[Any]:
    return values
