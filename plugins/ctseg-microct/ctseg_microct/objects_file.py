"""The map of numbered objects as a file, written slab by slab."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctseg.specs import VolumeSource
from ctseg.volume.header import VolumeHeader
from ctseg.volume.io import open_writer
from ctseg.volume.memory_map import drop_pages
from ctseg_microct.parts import Numbered
from ctseg_microct.phases import SLAB_VOXELS


def write_objects(objects: Numbered, labels: VolumeSource, path: Path) -> None:
    """Write the number of the object of each voxel, as in `objects.csv`.

    Args:
        labels: the label map of these objects, whose grid the file gets.
    """
    geometry = labels.geometry
    depth, height, width = geometry.shape_zyx
    thick = max(1, SLAB_VOXELS // (height * width))
    header = VolumeHeader(geometry, np.dtype(np.int32), reference=labels)
    writer = open_writer(path, header, {"dataset": "/label"})
    try:
        for start in range(0, depth, thick):
            writer.write(start, np.array(objects.map[start : start + thick]))
            drop_pages(objects.map[start : start + thick])
        writer.commit()
    except BaseException:
        writer.abort()
        raise
