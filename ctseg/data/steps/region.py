"""A given region of a scan: what a coarse model found, or what a user asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ctseg.data.steps.base import Array, Box, Parts, Record
from ctseg.data.steps.crop import ToBox
from ctseg.data.steps.track import Tracks, each
from ctseg.errors import BadInput
from ctseg.volume.geometry import Geometry


@dataclass(frozen=True)
class Region(ToBox):
    """Crop to a box that is known beforehand. It belongs to one scan, so it stands in no run file.

    Attributes:
        box_zyx: first voxel and the one past the last along z, y, x of the scan as it is stored.
    """

    kind: ClassVar[str] = "region"
    box_zyx: Box = ((0, 1), (0, 1), (0, 1))

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        return self.fit_parts(list, geometry)

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record:
        for (a, b), size in zip(self.box_zyx, geometry.shape_zyx, strict=True):
            if not 0 <= a < b <= size:
                raise BadInput(
                    f"The region {self.box_zyx} (z, y, x) is no part of a scan of {geometry.shape_zyx} voxels."
                )
        return {"box_zyx": [list(span) for span in self.box_zyx]}


def parse_region(text: str) -> Box:
    """A region from `z0:z1,y0:y1,x0:x1`, in voxels of the scan as it is stored.

    Raises:
        BadInput: another form.
    """
    try:
        spans = [tuple(int(n) for n in part.split(":")) for part in text.split(",")]
        (z, z1), (y, y1), (x, x1) = spans
    except ValueError:
        raise BadInput(
            f"'{text}' is no region.",
            hint="Write three ranges of voxels, e.g. 0:40,100:300,90:310 (z, y, x).",
        ) from None
    return (z, z1), (y, y1), (x, x1)


class Nowhere(Region):
    """A region that holds nothing: what a coarse model leaves where it finds nothing."""

    def track_axes(self, tracks: Tracks, geometry: Geometry, record: Record) -> Tracks:
        return each(tracks, lambda t: replace(t, inside=np.zeros_like(t.inside)))
