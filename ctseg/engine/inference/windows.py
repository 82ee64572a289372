"""Windows over a volume for user scripts: `pad_to_windows` pads a volume, `window_coordinates` lists the windows.

Both take NumPy arrays and torch tensors, and place windows like the tiles of `ctseg.predict_tiles`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.data.borders import reflect
from ctseg.engine.inference import tiling
from ctseg.errors import BadInput

T = TypeVar("T", NDArray[Any], torch.Tensor)
Zyx = tuple[int, int, int]
Slices = tuple[slice, slice, slice]


def pad_to_windows(
    volume: T,
    window_zyx: Sequence[int],
    *,
    stride_zyx: Sequence[int] | None = None,
    value: float | None = None,
) -> tuple[T, Slices]:
    """Pad a volume so that windows fit: evenly on both sides, an odd voxel at the end.

    Args:
        volume: [..., Z, Y, X], NumPy or torch; leading axes are not padded.
        window_zyx: size of a window in voxels.
        stride_zyx: voxels from window to window; the volume is padded until the last window ends with it. By default
            only axes shorter than a window are padded.
        value: value of the padding; None reflects the volume at its border (an axis too short for that repeats its
            edge).

    Returns:
        the padded volume, of the same kind and type, and the slices of the original in it: `padded[..., *inside]`.

    Raises:
        BadInput: fewer than three axes, or sizes below 1.

    Example:
        >>> import numpy as np
        >>> padded, inside = pad_to_windows(np.zeros((10, 40, 40)), (16, 32, 32), stride_zyx=(8, 16, 16))
        >>> padded.shape
        (16, 48, 48)
    """
    window, stride = _three(window_zyx, "window"), _stride(stride_zyx)
    inside: list[slice] = []
    out: Any = volume
    for axis, size in enumerate(_shape(volume)):
        padded = max(size, window[axis])
        if stride is not None:
            padded = window[axis] + -(-(padded - window[axis]) // stride[axis]) * stride[axis]
        before = (padded - size) // 2
        after = padded - size - before
        inside.append(slice(before, before + size))
        if before or after:
            out = _pad_axis(out, out.ndim - 3 + axis, before, after, value)
    return out, (inside[0], inside[1], inside[2])


def window_coordinates(
    volume: NDArray[Any] | torch.Tensor | Sequence[int],
    window_zyx: Sequence[int],
    *,
    overlap: tiling.Overlap = 0.5,
    stride_zyx: Sequence[int] | None = None,
) -> list[Zyx]:
    """The first voxel (z, y, x) of every window over a volume; together they cover it, unless a stride skips voxels.

    Args:
        volume: [..., Z, Y, X], or its shape (z, y, x).
        window_zyx: size of a window in voxels.
        overlap: fraction of a window that overlaps with its neighbour, for all axes or for each (z, y, x). Windows are
            spread evenly, the first and last flush with the ends, as in `ctseg.predict_tiles`.
        stride_zyx: voxels from window to window, instead of an overlap; the last window is moved inward if it does
            not fit.

    Raises:
        BadInput: a volume smaller than a window (see `pad_to_windows`), or sizes below 1.

    Example:
        >>> window_coordinates((16, 48, 32), (16, 32, 32), stride_zyx=(8, 16, 16))
        [(0, 0, 0), (0, 16, 0)]
    """
    window, stride = _three(window_zyx, "window"), _stride(stride_zyx)
    tiling.check(window, overlap)
    shape = _shape(volume)
    if any(n < w for n, w in zip(shape, window, strict=True)):
        raise BadInput(
            f"The volume {shape} (z, y, x) is smaller than a window of {window}.",
            hint="Pad it first: volume, inside = ctseg.pad_to_windows(volume, window_zyx)",
        )
    axes = []
    overlaps = tiling.overlap_zyx(overlap)
    for axis, (size, length) in enumerate(zip(shape, window, strict=True)):
        if stride is None:
            axes.append(tiling.starts(size, length, overlaps[axis]))
        else:
            count = math.ceil((size - length) / stride[axis]) + 1
            axes.append([min(i * stride[axis], size - length) for i in range(count)])
    return [(z, y, x) for z, y, x in itertools.product(*axes)]


def _shape(volume: Any) -> Zyx:
    shape = tuple(volume.shape) if hasattr(volume, "shape") else tuple(volume)
    if len(shape) < 3:
        raise BadInput(
            f"A volume has at least three axes (z, y, x); this one has the shape {shape}."
        )
    return _three(shape[-3:], "volume")


def _three(sizes: Sequence[int], what: str) -> Zyx:
    if len(sizes) != 3 or min(sizes) < 1:
        raise BadInput(f"A {what} needs three sizes of 1 or more (z, y, x), not {tuple(sizes)}.")
    z, y, x = (int(size) for size in sizes)
    return z, y, x


def _stride(stride_zyx: Sequence[int] | None) -> Zyx | None:
    return None if stride_zyx is None else _three(stride_zyx, "stride")


def _pad_axis(volume: Any, axis: int, before: int, after: int, value: float | None) -> Any:
    size = volume.shape[axis]
    index = np.arange(-before, size + after)
    # an axis too short for reflection repeats its edge, as in tiles
    source = reflect(index, size) if max(before, after) < size else np.clip(index, 0, size - 1)
    outside = [slice(None)] * volume.ndim
    if isinstance(volume, torch.Tensor):
        out: Any = volume.index_select(axis, torch.from_numpy(source).to(volume.device))
    else:
        out = np.take(volume, source, axis)
    if value is not None:
        for part in (slice(0, before), slice(before + size, None)):
            outside[axis] = part
            out[tuple(outside)] = value
    return out
