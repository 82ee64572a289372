"""Rotation, zoom, bending, mirroring and turns in one resampling of image, target and maps.

On a CPU the image is sampled with torch's two-dimensional sampler, which is vectorised as the three-dimensional one
is not: the box is seen as an image of Z * Y rows, read at two neighbouring z by strides, without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ctseg.data.augment.elastic import field
from ctseg.data.augment.patch_transform import PatchTransform

Zyx = tuple[int, int, int]
CHUNK_VOXELS = 2**17
"""Voxels worked on at a time on a CPU: what is computed for them stays in its cache."""


def move(
    way: PatchTransform,
    patch_zyx: Zyx,
    *,
    linear: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
    nearest: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
) -> None:
    """Take patches out of boxes.

    Args:
        way: through the box.
        linear: pairs of a box [C, *way.size] and the patch [C, *patch] to be filled, interpolated linearly; a voxel
            next to NaN becomes NaN.
        nearest: pairs likewise, of any type, filled with the nearest voxel.
    """
    if not way.interpolates:
        for box, out in (*linear, *nearest):
            out.copy_(_turned(way, box))
        return
    if linear:
        device = linear[0][0].device
    elif nearest:
        device = nearest[0][0].device
    else:
        return
    on_cpu = device.type == "cpu"
    linear = [(box.float().contiguous(), out) for box, out in linear]
    nearest = [(box.contiguous(), out) for box, out in nearest]
    chunk = max(1, CHUNK_VOXELS // (patch_zyx[1] * patch_zyx[2])) if on_cpu else patch_zyx[0]
    for first, last, z, y, x in positions(way, patch_zyx, chunk, device):
        if nearest:
            index = _flat_index(z, y, x, way.size)
            for box, out in nearest:
                for channel, to in zip(box, out, strict=True):
                    picked = channel.view(-1).index_select(0, index)
                    to[first:last] = picked.view(z.shape)
        if not linear:
            continue
        targets = [
            (channel, to[first:last])
            for box, out in linear
            for channel, to in zip(box, out, strict=True)
        ]
        if on_cpu:
            _linear_by_planes(targets, z, y, x, way.size)
        else:
            _linear(targets, z, y, x, way.size)


def _turned(way: PatchTransform, box: torch.Tensor) -> torch.Tensor:
    """The box turned and mirrored by whole voxels."""
    axes = [int(np.flatnonzero(way.matrix[:, axis])[0]) for axis in range(3)]
    back = [1 + axis for axis in range(3) if way.matrix[axes[axis], axis] < 0]
    box = box.permute(0, *(1 + a for a in axes))
    return box.flip(back) if back else box


def positions(
    way: PatchTransform, patch_zyx: Zyx, chunk: int, device: torch.device
) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Where the patch's voxels lie in the box.

    Yields:
        first and last z of the patch, and the voxel's z, y, x in the box, float32 [last - first, Y, X] each.
    """
    offsets = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in patch_zyx]
    centre = way.centre(patch_zyx)
    planes, lines = [], []
    for axis in range(3):
        one, two, three = (float(v) for v in way.matrix[axis])
        plane = one * offsets[0][:, None] + two * offsets[1][None, :] + float(centre[axis])
        planes.append(plane.float().to(device)[:, :, None])
        lines.append((three * offsets[2]).float().to(device))
    bent = None
    if way.elastic is not None:
        bent = field(way.elastic, way.control, patch_zyx, way.seed, device)
    for first in range(0, patch_zyx[0], chunk):
        last = min(first + chunk, patch_zyx[0])
        z, y, x = (plane[first:last] + line for plane, line in zip(planes, lines, strict=True))
        if bent is not None:
            for axis, position in enumerate((z, y, x)):
                position.add_(bent[axis, first:last])
        yield first, last, z, y, x


def _flat_index(z: torch.Tensor, y: torch.Tensor, x: torch.Tensor, size: Zyx) -> torch.Tensor:
    """Index of the nearest voxel in the flattened box."""
    kind = torch.int32 if size[0] * size[1] * size[2] < 2**31 else torch.int64
    # rows fit into a float exactly, voxels need not
    rows = z.round().mul_(size[1]).add_(y.round()).to(kind)
    return rows.mul_(size[2]).add_(x.round().to(kind)).view(-1)


def _linear_by_planes(
    targets: Sequence[tuple[torch.Tensor, torch.Tensor]],
    z: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
    size: Zyx,
) -> None:
    """Bilinear in two neighbouring planes, then linear between them; z, y, x are used up."""
    low = z.floor()
    share = z.sub_(low)
    # only the planes that are needed: the fewer rows, the more exact a row's number between -1 and 1
    lowest, highest = (int(v) for v in torch.aminmax(low))
    rows = (highest - lowest + 1) * size[1]
    grid = torch.empty((*z.shape, 2))
    torch.mul(x, 2 / max(size[2] - 1, 1), out=grid[..., 0])
    y.add_(low, alpha=size[1]).sub_(lowest * size[1]).mul_(2 / max(rows - 1, 1))
    grid[..., 1] = y
    grid.sub_(1)
    plane = size[1] * size[2]
    for channel, out in targets:
        image = channel[lowest:].as_strided(
            (len(z), 2, rows, size[2]),
            (0, plane, size[2], 1),
            channel.storage_offset() + lowest * plane,
        )
        pair = F.grid_sample(
            image, grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        torch.lerp(pair[:, 0], pair[:, 1], share, out=out)


def _linear(
    targets: Sequence[tuple[torch.Tensor, torch.Tensor]],
    z: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
    size: Zyx,
) -> None:
    """Trilinear by torch's own sampler, as accelerators are fast at."""
    options: dict[str, Any] = {"padding_mode": "border", "align_corners": True}
    scaled = [2 * p / max(n - 1, 1) - 1 for p, n in zip((x, y, z), size[::-1], strict=True)]
    grid = torch.stack(scaled, -1)[None]
    stacked = torch.stack([channel for channel, _ in targets])[None]
    moved = F.grid_sample(stacked, grid, mode="bilinear", **options)[0]
    for (_, out), values in zip(targets, moved, strict=True):
        out.copy_(values)
