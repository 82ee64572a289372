"""The grid of a SEG that ctseg wrote, noted in a private element: empty slices at its ends leave no frames."""

from __future__ import annotations

import json

import numpy as np
import pydicom

from ctseg.errors import BadInput
from ctseg.volume.geometry import Geometry, as_matrix, as_xyz

_GROUP, _CREATOR, _ELEMENT = 0x0071, "ctseg", 0x01
_ON_GRID = 1e-2
_MOST_SLICES = 65536


def note(data: pydicom.Dataset, geometry: Geometry) -> None:
    """Keep the whole grid, so that the file can be read without its series."""
    z, y, x = geometry.shape_zyx
    text = {
        "shape_zyx": [z, y, x],
        "spacing_xyz": geometry.spacing_xyz,
        "origin_xyz": geometry.origin_xyz,
        "direction": geometry.direction,
    }
    block = data.private_block(_GROUP, _CREATOR, create=True)
    block.add_new(_ELEMENT, "UT", json.dumps(text))


def noted(data: pydicom.Dataset, frames: Geometry) -> tuple[Geometry, int] | None:
    """The whole grid and the slice at which that of the frames begins; None where nothing that fits was noted."""
    try:
        text = json.loads(str(data.private_block(_GROUP, _CREATOR)[_ELEMENT].value))
        z, y, x = text["shape_zyx"]
        spacing, origin = as_xyz(text["spacing_xyz"]), as_xyz(text["origin_xyz"])
        whole = Geometry((z, y, x), spacing, origin, as_matrix(text["direction"]))
    except (KeyError, ValueError, TypeError, BadInput):
        return None
    at = np.linalg.inv(whole.affine) @ [*frames.origin_xyz, 1.0]
    start = round(float(at[2]))
    part = whole.sub((start, 0, 0), frames.shape_zyx)
    offsets = np.abs(part.affine - frames.affine) / min(whole.spacing_xyz)
    inside = (
        z <= _MOST_SLICES
        and 0 <= start <= z - frames.shape_zyx[0]
        and frames.shape_zyx[1:] == (y, x)
    )
    return (whole, start) if inside and offsets.max() <= _ON_GRID else None
