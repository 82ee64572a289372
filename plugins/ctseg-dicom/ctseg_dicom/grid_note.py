"""The full grid of a SEG that ctseg wrote, stored in a private element: empty slices at its ends have no frames."""

from __future__ import annotations

import json

import numpy as np
import pydicom

from ctseg.config.checking import parse_json
from ctseg.errors import BadInput
from ctseg.volume.geometry import Geometry, as_matrix, as_xyz

_GROUP, _CREATOR, _ELEMENT = 0x0071, "ctseg", 0x01
_ON_GRID = 1e-2
_MOST_SLICES = 65536


def store_grid(data: pydicom.Dataset, geometry: Geometry) -> None:
    """Store the full grid, so that the file can be read without its series."""
    z, y, x = geometry.shape_zyx
    text = {
        "shape_zyx": [z, y, x],
        "spacing_xyz": geometry.spacing_xyz,
        "origin_xyz": geometry.origin_xyz,
        "direction": geometry.direction,
    }
    block = data.private_block(_GROUP, _CREATOR, create=True)
    block.add_new(_ELEMENT, "UT", json.dumps(text))


def stored_grid(data: pydicom.Dataset, frames: Geometry) -> tuple[Geometry, int] | None:
    """The full grid and the slice at which the frames' grid begins; None without a matching entry."""
    try:
        text = parse_json(str(data.private_block(_GROUP, _CREATOR)[_ELEMENT].value))
        z, y, x = text["shape_zyx"]
        spacing, origin = as_xyz(text["spacing_xyz"]), as_xyz(text["origin_xyz"])
        full = Geometry((z, y, x), spacing, origin, as_matrix(text["direction"]))
    except (KeyError, ValueError, TypeError, BadInput):
        return None
    at = np.linalg.inv(full.affine) @ [*frames.origin_xyz, 1.0]
    start = round(float(at[2]))
    part = full.sub((start, 0, 0), frames.shape_zyx)
    offsets = np.abs(part.affine - frames.affine) / min(full.spacing_xyz)
    inside = (
        z <= _MOST_SLICES
        and 0 <= start <= z - frames.shape_zyx[0]
        and frames.shape_zyx[1:] == (y, x)
    )
    return (full, start) if inside and offsets.max() <= _ON_GRID else None
