"""What notebooks show of a volume: a few facts and slices through its middle, whatever its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctseg.errors import CtsegError
from ctseg.markup import Markup, definitions, element, markup
from ctseg.volume.geometry import Geometry
from ctseg.volume.preview.paint import data_uri, paint_grey, paint_labels, png_of
from ctseg.volume.preview.planes import (
    PLANES,
    Plane,
    Slice,
    canonical,
    canonical_spacing_zyx,
    cut,
    window_of,
)

if TYPE_CHECKING:
    from ctseg.specs import VolumeSource

WIDEST = 2048
"""Most voxels along each axis of a slice that is read; of longer ones the middle part."""
WHOLE_FILE = 2**24
"""Most voxels of a file that has to be read whole for one slice."""
_PIXELS = 220
_FEW_LABELS = 32


def volume_html(array_czyx: NDArray[Any], geometry: Geometry) -> Markup:
    """Facts and the middle axial, coronal and sagittal slice of the first channel of an array in memory."""
    image = canonical(array_czyx[0], geometry)
    spacing = canonical_spacing_zyx(geometry)
    slices = [
        cut(image, spacing, plane, size // 2)
        for plane, size in zip(PLANES, image.shape, strict=True)
    ]
    middle = [_middle_part(one) for one in slices]
    return markup(_facts(geometry, array_czyx.dtype, len(array_czyx)), _figure(middle, PLANES))


def source_html(source: VolumeSource) -> Markup:
    """Facts and the middle slice of a scan on disk; no slice if a large file would be read whole for it."""
    geometry = source.geometry
    facts = _facts(geometry, source.dtype, source.channels)
    if not source.by_region and math.prod(geometry.shape_zyx) > WHOLE_FILE:
        return facts
    z, y, x = geometry.shape_zyx
    start, stop = [z // 2, 0, 0], [z // 2 + 1, y, x]
    for axis in (1, 2):
        extra = max(0, geometry.shape_zyx[axis] - WIDEST)
        start[axis], stop[axis] = extra // 2, geometry.shape_zyx[axis] - (extra - extra // 2)
    a, b = (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])
    try:
        box = source.read_box(a, b)[0]
    except CtsegError as error:  # a notebook shows what it can
        return markup(facts, element("p", error.message))
    part = geometry.sub(a, box.shape)
    image = canonical(box, part)
    plane = PLANES[image.shape.index(1)]
    return markup(facts, _figure([cut(image, canonical_spacing_zyx(part), plane, 0)], [plane]))


def _facts(geometry: Geometry, dtype: np.dtype[Any], channels: int) -> Markup:
    factor = 1000 if geometry.unit == "um" else 1
    spacing = " × ".join(f"{s * factor:.4g}" for s in geometry.spacing_xyz)
    return definitions(
        {
            "voxels (z, y, x)": " × ".join(map(str, geometry.shape_zyx)),
            "spacing (x, y, z)": f"{spacing} {'µm' if geometry.unit == 'um' else 'mm'}",
            "axes run to": geometry.orientation,
            "type": dtype.name if channels == 1 else f"{dtype.name}, {channels} channels",
        }
    )


def _middle_part(image: Slice) -> Slice:
    parts = [
        slice(max(0, n - WIDEST) // 2, max(0, n - WIDEST) // 2 + WIDEST) for n in image.pixels.shape
    ]
    return Slice(image.pixels[tuple(parts)], image.pixel_mm, image.sides)


def _figure(slices: Sequence[Slice], planes: Sequence[Plane]) -> Markup:
    labels = _label_values(slices)
    pictures = []
    for image, plane in zip(slices, planes, strict=True):
        if labels is None:
            picture = paint_grey(image, window_of(image.pixels[None]), _PIXELS)
        else:
            black = Slice(np.zeros_like(image.pixels, np.uint8), image.pixel_mm, image.sides)
            numbers = np.searchsorted(labels, image.pixels)
            picture = paint_labels(paint_grey(black, (0.0, 1.0), _PIXELS), numbers, fill=0.8)
        pictures.append(
            element("img", src=data_uri(png_of(picture)), alt=plane, title=plane, style="margin: 2px")
        )  # fmt: skip
    return element("div", *pictures)


def _label_values(slices: Sequence[Slice]) -> NDArray[Any] | None:
    """0 and the values of a label map; None if the slices look like an image."""
    if slices[0].pixels.dtype.kind not in "iub":
        return None
    values = np.unique(np.concatenate([np.unique(one.pixels) for one in slices]))
    if values[0] < 0 or len(values) > _FEW_LABELS:
        return None
    return np.union1d([0], values)
