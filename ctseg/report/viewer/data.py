"""What the page's script shows: the scan, label maps and surfaces as compressed files in base64, and names."""

from __future__ import annotations

import base64
import gzip
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from ctseg.report.display import Display, DisplayLabels, block_means, factors_for, reduced
from ctseg.report.planes import SOFT_TISSUE, WINDOWS, window_of
from ctseg.report.surface import Surface, surface_of
from ctseg.specs import Label
from ctseg.volume.formats.nifti.sink import make_nifti_header
from ctseg.volume.geometry import Geometry

SURFACE_VOXELS = (2**19, 2**23)
"""Most voxels from which the surface of a label is computed, and those of all labels together."""
_DIFFERENCES = (
    ("same label in both", (0, 160, 135)),
    ("only in {0}", (77, 187, 213)),
    ("only in {1}", (230, 75, 53)),
    ("another label", (220, 200, 70)),
)
_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class _Space:
    """The grid shown, and how the page writes places: in RAS, in the numbers of the NIfTI files."""

    geometry: Geometry
    surface_voxels: int
    extra: str

    def place(self, points_xyz: NDArray[Any]) -> NDArray[Any]:
        unit = 1000.0 if self.geometry.unit == "um" else 1.0
        placed: NDArray[Any] = points_xyz * _RAS * unit
        return placed


def page_data(display: Display, *, extra: str, compare: bool = False) -> dict[str, Any]:
    """The data as JSON values.

    Args:
        extra: the extra of ctseg that brings scikit-image.
        compare: whether to show the difference of the first and the last label map, before them.
    """
    geometry = display.volume.geometry
    maps = list(display.layers)
    if compare:
        maps.insert(0, difference(maps[0], maps[-1], geometry))
    each, together = SURFACE_VOXELS
    count = sum(len(one.labels) for one in maps)
    space = _Space(geometry, min(each, together // max(1, count)), extra)
    low, high = window_of(display.volume.array)
    whole = _range(display.volume.array)
    windows = {} if (low, high) == SOFT_TISSUE else {"auto": (low, high)}
    windows |= {**WINDOWS, "full range": (whole[0], max(whole[1], whole[0] + 1))}
    return {
        "note": display.note,
        "unit": geometry.unit,
        "windows": [[name, *window] for name, window in windows.items()],
        "scan": _nifti(narrow(display.volume.array), geometry),
        "layers": [_layer(one, space, shown=not compare or i == 0) for i, one in enumerate(maps)],
    }


def difference(one: DisplayLabels, two: DisplayLabels, geometry: Geometry) -> DisplayLabels:
    """The difference of two label maps as a label map: equal, only in the first, only in the second, other label."""
    a, b = one.array, two.array
    array = np.zeros(a.shape, np.uint8)
    array[(a != 0) & (a == b)] = 1
    array[(a != 0) & (b == 0)] = 2
    array[(a == 0) & (b != 0)] = 3
    array[(a != 0) & (b != 0) & (a != b)] = 4
    names = (one.name, two.name) if one.name != two.name else ("the first", "the second")
    labels = tuple(
        Label(name.format(*names), (value,), value, colour)
        for value, (name, colour) in enumerate(_DIFFERENCES, start=1)
    )
    counts = np.bincount(array.ravel(), minlength=5)
    volumes = {value: float(counts[value]) * geometry.voxel_volume_mm3 for value in range(1, 5)}
    there = tuple(label for label in labels if counts[label.value])
    return DisplayLabels("difference", array, there, volumes)


def _layer(one: DisplayLabels, space: _Space, *, shown: bool) -> dict[str, Any]:
    """A label map whose values are numbered from 1 on, since colour tables are short."""
    values = np.array([0, *(label.value for label in one.labels)])
    order = np.argsort(values)
    places = np.searchsorted(values, one.array, sorter=order)
    indices = order[places.clip(0, len(values) - 1)]
    indices[values[indices] != one.array] = 0
    boxes = find_objects(indices, max_label=len(one.labels))
    labels = []
    for index, (label, box) in enumerate(zip(one.labels, boxes, strict=True), start=1):
        described: dict[str, Any] = {
            "name": label.name,
            "value": label.value,
            "colour": list(label.colour or (255, 255, 255)),
            "mm3": one.volumes_mm3.get(label.value, 0.0),
        }
        if box is not None:
            described |= _placed(indices[box] == index, [part.start for part in box], space)
        labels.append(described)
    dtype = np.uint8 if len(values) <= 256 else np.int16
    file = _nifti(indices.astype(dtype), space.geometry)
    return {"name": one.name, "shown": shown, "file": file, "labels": labels}


def _placed(mask: NDArray[np.bool_], first: list[int], space: _Space) -> dict[str, Any]:
    """A voxel in the middle of a label, and its surface."""
    geometry = space.geometry.sub((first[0], first[1], first[2]), mask.shape)
    voxels = np.argwhere(mask)
    middle = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
    place = space.place(np.asarray(geometry.position(middle[::-1])))
    factors = factors_for(mask.shape, geometry.spacing_zyx, space.surface_voxels)
    smooth = 10 if max(factors) == 1 else 4
    inside = mask if max(factors) == 1 else block_means(mask, factors)
    surface = surface_of(inside, reduced(geometry, factors), space.extra, smooth=smooth)
    file = {} if surface is None else {"surface": _mz3(surface, space)}
    return {"at": [round(float(v), 4) for v in place], **file}


def narrow(array: NDArray[Any]) -> NDArray[Any]:
    """The scan in a voxel type that browsers read exactly, as small as possible.

    Infinite values become the ends of the others' range, those that are no number 0.
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        small = array.min() >= -32768 and array.max() <= 32767
        return array.astype(np.int16 if small else np.float32)
    if array.dtype.kind == "f":
        single = array.astype(np.float32)
        low, high = _range(single)
        return np.nan_to_num(single, posinf=high, neginf=low)
    return array


def _range(array: NDArray[Any]) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 1 where there is none."""
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def nifti_file(array: NDArray[Any], geometry: Geometry) -> bytes:
    """A NIfTI file that browsers read."""
    raw: bytes = make_nifti_header(geometry, array.dtype, None)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return raw + little.tobytes()


def _nifti(array: NDArray[Any], geometry: Geometry) -> str:
    return _packed(nifti_file(array, geometry))


def _mz3(surface: Surface, space: _Space) -> str:
    """A mesh in NiiVue's own format (github.com/neurolabusc/surf-ice): a header, triangles, points."""
    points = space.place(surface.points_xyz).astype("<f4")
    header = struct.pack("<HHIII", 23117, 1 | 2, len(surface.triangles), len(points), 0)
    return _packed(header + surface.triangles.astype("<i4").tobytes() + points.tobytes())


def _packed(raw: bytes) -> str:
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode("ascii")
