"""The way from a patch back to its scan: which box of it is needed, and where each voxel lies in that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.data.augment.elastic import limits
from ctseg.data.augment.parameters import AugmentParameters
from ctseg.data.borders import reflect

Zyx = tuple[int, int, int]


@dataclass(frozen=True)
class PatchTransform:
    """How one patch is taken out of its scan.

    Attributes:
        matrix: [3, 3] from output voxels to input voxels z, y, x, both counted from the patch's centre. A signed
            permutation where nothing is interpolated.
        interpolates: whether voxels fall between voxels.
        start: first voxel of the box that is needed, counted from the patch's first voxel.
        size: of that box.
        elastic: largest displacement in input voxels, None where nothing bends.
        control: spacing of the control points in output voxels z, y, x.
        seed: of the displacements.
    """

    matrix: NDArray[np.float64]
    interpolates: bool
    start: Zyx
    size: Zyx
    elastic: tuple[float, float, float] | None = None
    control: tuple[float, float, float] = (1.0, 1.0, 1.0)
    seed: int = 0

    def centre(self, patch_zyx: Zyx) -> NDArray[np.float64]:
        """The patch's centre, in voxels of the box."""
        middle: NDArray[np.float64] = (np.asarray(patch_zyx) - 1) / 2 - np.asarray(self.start)
        return middle


def patch_transform(
    draw: AugmentParameters,
    patch_zyx: Zyx,
    spacing_zyx: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    in_plane: bool = False,
) -> PatchTransform:
    """The way of one sample.

    Args:
        spacing_zyx: mm; rotations turn millimetres, not voxels.
        in_plane: nothing bends along z.
    """
    mm, size = np.asarray(spacing_zyx, float), np.asarray(patch_zyx)
    axes, back = draw.turn
    signed = np.zeros((3, 3))
    for axis in range(3):
        signed[axes[axis], axis] = -1 if (axis in back) != (axis in draw.mirror) else 1
    if draw.affine is None and not draw.elastic_mm:
        turned = np.zeros(3, int)
        turned[list(axes)] = size
        start = np.floor((size - turned) / 2).astype(int)
        return PatchTransform(signed, False, _zyx(start), _zyx(turned))
    matrix = signed
    if draw.affine is not None:
        matrix = (draw.affine * mm[None, :] / mm[:, None]) @ signed
    elastic, control = None, (1.0, 1.0, 1.0)
    reach = np.abs(matrix) @ ((size - 1) / 2)
    if draw.elastic_mm:
        elastic, control = limits(draw.elastic_mm, draw.elastic_points, patch_zyx, mm, in_plane)
        reach = reach + np.asarray(elastic)
    middle = (size - 1) / 2
    start = np.floor(middle - reach - 1e-3).astype(int)
    stop = np.floor(middle + reach + 1e-3).astype(int) + 2  # the next voxel too
    return PatchTransform(
        matrix, True, _zyx(start), _zyx(stop - start), elastic, control, draw.seed
    )


def _zyx(values: NDArray[np.int64]) -> Zyx:
    z, y, x = (int(v) for v in values)
    return z, y, x


def take(box: torch.Tensor, start: Sequence[int], size: Zyx, outside: float | None) -> torch.Tensor:
    """A box of [C, Z, Y, X], which may reach beyond it.

    Args:
        start: first voxel; may be negative.
        outside: the value out there; None reflects at the centres of the outer voxels.

    Returns:
        [C, *size]: a view where it lies inside.
    """
    shape = box.shape[1:]
    inside = all(s >= 0 and s + n <= m for s, n, m in zip(start, size, shape, strict=True))
    if inside:
        for axis, (s, n) in enumerate(zip(start, size, strict=True), start=1):
            box = box.narrow(axis, s, n)
        return box
    if outside is None:
        for axis, (s, n) in enumerate(zip(start, size, strict=True), start=1):
            box = _reflect_axis(box, axis, s, n)
        return box
    out = box.new_full((box.shape[0], *size), outside)
    to, source = out, box
    for axis, (s, n, m) in enumerate(zip(start, size, shape, strict=True), start=1):
        low, high = max(s, 0), min(s + n, m)
        length = max(high - low, 0)
        to = to.narrow(axis, min(low - s, n) if length else 0, length)
        source = source.narrow(axis, low if length else 0, length)
    to.copy_(source)
    return out


def _reflect_axis(box: torch.Tensor, axis: int, start: int, count: int) -> torch.Tensor:
    """What `reflect` picks along one axis; what lies inside is copied whole, which is many times faster."""
    size = box.shape[axis]
    low, high = min(max(start, 0), size), min(max(start + count, 0), size)
    if low >= high:
        index = torch.from_numpy(reflect(np.arange(start, start + count), size))
        return box.index_select(axis, index.to(box.device))
    if (low, high) == (start, start + count):
        return box.narrow(axis, low, count)
    parts = [box.narrow(axis, low, high - low)]
    for first, last, at in ((start, low, 0), (high, start + count, 2)):
        if last > first:
            index = torch.from_numpy(reflect(np.arange(first, last), size))
            parts.insert(at, box.index_select(axis, index.to(box.device)))
    return torch.cat(parts, axis)
