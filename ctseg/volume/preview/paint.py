"""Paints slices and the labels over them, as pictures of pixels and as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.task import PALETTE
from ctseg.volume.preview.planes import Slice, Window

Picture = NDArray[np.uint8]
"""[rows, columns, 3], or [rows, columns] in grey."""
Colours = Sequence[tuple[int, int, int]]
_NEAR = ((0, 1), (0, 2), (1, 0), (2, 0), (1, 1), (1, -1))
"""Offsets (and their opposites) within which another label makes a pixel part of a contour."""


def size_of(image: Slice, longest: int) -> tuple[int, int]:
    """Rows and columns, both even, of a picture in the slice's aspect ratio whose longer side has `longest` pixels."""
    scale = longest / max(image.size_mm)
    rows, columns = (max(16, round(length * scale / 2) * 2) for length in image.size_mm)
    return rows, columns


def paint_grey(image: Slice, window: Window, longest: int = 512) -> Picture:
    """A slice in grey [rows, columns], interpolated linearly; what is no number is black."""
    from PIL import Image

    low, high = window
    grey = np.nan_to_num(image.pixels.astype(np.float32), nan=low)
    grey = ((grey - low) / max(high - low, 1e-6)).clip(0, 1) * 255
    rows, columns = size_of(image, longest)
    still = Image.fromarray(grey.astype(np.uint8))
    return np.asarray(still.resize((columns, rows), Image.Resampling.BILINEAR))


def paint_labels(
    grey: Picture, labels: NDArray[np.integer[Any]], colours: Colours = PALETTE, fill: float = 0.35
) -> Picture:
    """Labels over a picture in grey, filled and with contours: [rows, columns, 3].

    Args:
        labels: [rows, columns] of the slice, 0 or the label's number from 1 on.
        colours: of label 1, 2, ...; they are repeated where there are more labels.
        fill: opacity inside contours, 0..1.
    """
    height, width = grey.shape
    rows, columns = labels.shape
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    shown = labels[row[:, None], column]
    out = np.repeat(grey.astype(np.float32)[..., None], 3, axis=2)
    inside = shown > 0
    colour = np.asarray(colours, np.float32)[(shown[inside].astype(np.int64) - 1) % len(colours)]
    out[inside] += fill * (colour - out[inside])
    contour = (_is_contour(shown) & inside)[inside]
    out[inside] = np.where(contour[:, None], colour, out[inside])
    return out.astype(np.uint8)


def _is_contour(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where another label lies within two pixels; the picture's border makes no contour."""
    rows, columns = labels.shape
    padded = np.pad(labels, 2, mode="edge")
    out = np.zeros(labels.shape, bool)
    for down, right in _NEAR:
        for sign in (1, -1):
            y, x = 2 + sign * down, 2 + sign * right
            out |= padded[y : y + rows, x : x + columns] != labels
    return out


def png_of(picture: Picture) -> bytes:
    """A picture as a PNG file; one in colours has 256 of them."""
    from PIL import Image

    still = Image.fromarray(picture)
    if picture.ndim == 3:
        still = still.quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    still.save(file, "PNG", optimize=True)
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it, for `img` elements."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
