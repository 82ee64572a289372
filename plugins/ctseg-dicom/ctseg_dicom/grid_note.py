"""The full grid of a SEG that ctseg wrote, stored in a private element: empty slices at its ends have no frames."""

from __future__ import annotations

import json

import numpy as np
import pydicom
from numpy.typing import NDArray

from ctseg.config.checking import parse_json
from ctseg.errors import BadInput
from ctseg.volume.geometry import Geometry, as_matrix, as_xyz

_GROUP, _CREATOR, _ELEMENT = 0x0071, "ctseg", 0x01
_ON_GRID = 1e-2
_MOST_SLICES = 65536


def store_grid(data: pydicom.Dataset, geometry: Geometry, places_xyz: NDArray[np.float64]) -> None:
    """Store the full grid, so that the file can be read without its series.

    Args:
        places_xyz: [Z, 3] position of each slice by the header of its image, mm.
    """
    z, y, x = geometry.shape_zyx
    text = {
        "shape_zyx": [z, y, x],
        "spacing_xyz": geometry.spacing_xyz,
        "origin_xyz": geometry.origin_xyz,
        "direction": geometry.direction,
        "places_xyz": places_xyz.tolist(),
    }
    block = data.private_block(_GROUP, _CREATOR, create=True)
    block.add_new(_ELEMENT, "UT", json.dumps(text))


def stored_grid(
    data: pydicom.Dataset, plane: Geometry, places_xyz: NDArray[np.float64]
) -> tuple[Geometry, NDArray[np.int64]] | None:
    """The full grid and the slice of each frame; None without an entry that matches the frames.

    Args:
        plane: grid of the first frame.
        places_xyz: [N, 3] position of each frame, mm.
    """
    try:
        text = parse_json(str(data.private_block(_GROUP, _CREATOR)[_ELEMENT].value))
        z, y, x = text["shape_zyx"]
        spacing, origin = as_xyz(text["spacing_xyz"]), as_xyz(text["origin_xyz"])
        full = Geometry((z, y, x), spacing, origin, as_matrix(text["direction"]))
        if z > _MOST_SLICES or plane.shape_zyx[1:] != (y, x):
            return None
        even = full.position(np.arange(z)[:, None] * [0, 0, 1])
        written = np.array(text.get("places_xyz", even), np.float64).reshape(z, 3)
    except (KeyError, ValueError, TypeError, BadInput):
        return None
    inverse = np.linalg.inv(full.affine)
    slices = np.rint(places_xyz @ inverse[2, :3] + inverse[2, 3])
    if not (slices.min() >= 0 and slices.max() < z):
        return None
    slices = slices.astype(np.int64)
    off = max(
        np.abs(places_xyz - written[slices]).max(),
        np.abs((plane.affine - full.affine)[:3, :2]).max(),
    )
    return (full, slices) if off <= _ON_GRID * min(spacing) else None
