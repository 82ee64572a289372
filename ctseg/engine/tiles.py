"""Tiled prediction: a network over a scan of any size, tile by tile, blended slab by slab.

Rows of tiles run along z. Sums are kept for the depth of one tile only; slices that no later tile touches are
divided by their weight and handed on.

A slice-wise network gives a slice the same logits wherever in a tile it lies, if only its neighbours are there. So
its tiles overlap along z by the context it looks at, and slices whose neighbours a tile lacks are left to the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.engine import tiling
from ctseg.engine.runtime import Runtime, choose
from ctseg.errors import BadInput
from ctseg.specs import Constraints

Zyx = tuple[int, int, int]
Output = Literal["logits", "probabilities", "labels"]
Activation = Literal["softmax", "sigmoid", "none"]


def slabs(
    net: torch.nn.Module,
    image_czyx: NDArray[np.float32],
    tile_zyx: Zyx,
    *,
    runtime: Runtime,
    overlap: float = 0.5,
    blend: tiling.Blend = "gaussian",
    batch_size: int = 1,
    mirror_axes: tuple[int, ...] = (),
    constraints: Constraints = Constraints(),  # noqa: B008 - frozen
    on_tiles: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Blended logits in slabs along z, each as soon as its last tile is in.

    Args:
        net: in eval mode, on the runtime's device.
        image_czyx: float32, at least as large as the tile on every axis (see `tiling.pad`).
        mirror_axes: spatial axes 0..2; the logits of all 2^n mirrored views are averaged.
        constraints: of the network; `dims` and `context_slices` decide how tiles meet along z.
        on_tiles: called with (tiles done, tiles in all).

    Yields:
        (first slice, fp32 logits [C, slices, Y, X] on the device).
    """
    shape = image_czyx.shape[1:]
    along_z = _along_z(overlap, blend, constraints)
    ways = (along_z, (overlap, blend, 0), (overlap, blend, 0))
    axes = list(zip(shape, tile_zyx, ways, strict=True))
    grid = [tiling.starts(n, t, share, context) for n, t, (share, _, context) in axes]
    device = runtime.device
    z_windows = tiling.windows(shape[0], tile_zyx[0], *along_z)
    y_window, x_window = (
        torch.from_numpy(tiling.window(t, blend)).to(device) for t in tile_zyx[1:]
    )
    totals = [torch.from_numpy(tiling.total_weight(n, t, *way)).to(device) for n, t, way in axes]
    plane = totals[1][:, None] * totals[2]
    image = torch.from_numpy(image_czyx)
    columns = list(itertools.product(grid[1], grid[2]))
    done, count = 0, len(grid[0]) * len(columns)
    ring: torch.Tensor | None = None
    _, ty, tx = tile_zyx
    for row, z in enumerate(grid[0]):
        z_window = torch.from_numpy(z_windows[row]).to(device)
        weight = z_window[:, None, None] * y_window[None, :, None] * x_window
        for first in range(0, len(columns), batch_size):
            group = columns[first : first + batch_size]
            tiles = [image[:, z : z + tile_zyx[0], y : y + ty, x : x + tx] for y, x in group]
            logits = _forward(net, torch.stack(tiles), runtime, mirror_axes)
            if ring is None:
                ring = torch.zeros((logits.shape[1], tile_zyx[0], *shape[1:]), device=device)
            for one, (y, x) in zip(logits, group, strict=True):
                ring[:, :, y : y + ty, x : x + tx].addcmul_(one, weight)
            done += len(group)
            if on_tiles:
                on_tiles(done, count)
        assert ring is not None
        following = grid[0][row + 1] if row + 1 < len(grid[0]) else shape[0]
        ready = following - z
        yield z, ring[:, :ready] / (totals[0][z:following, None, None] * plane)
        if row + 1 < len(grid[0]):
            ring = torch.cat([ring[:, ready:], torch.zeros_like(ring[:, :ready])], 1)


def _along_z(
    overlap: float, blend: tiling.Blend, constraints: Constraints
) -> tuple[float, tiling.Blend, int]:
    """Overlap, blend and context along z: a slice-wise network gains nothing from a second look at a slice."""
    if constraints.dims == 2:
        return 0.0, "constant", constraints.context_slices
    return overlap, blend, constraints.context_slices


def _forward(
    net: torch.nn.Module, tiles_bczyx: torch.Tensor, runtime: Runtime, mirror_axes: tuple[int, ...]
) -> torch.Tensor:
    x = runtime.tensor(tiles_bczyx)
    with torch.inference_mode(), runtime.autocast():
        total = net(x).float()
        views = [
            axes
            for n in range(1, len(mirror_axes) + 1)
            for axes in itertools.combinations(mirror_axes, n)
        ]
        for axes in views:
            dims = [2 + a for a in axes]
            total = total + net(runtime.tensor(x.flip(dims))).float().flip(dims)
    out: torch.Tensor = total / (len(views) + 1)
    return out


def predict_logits(
    net: torch.nn.Module,
    image_czyx: NDArray[np.float32],
    tile_zyx: Zyx,
    *,
    runtime: Runtime,
    overlap: float = 0.5,
    blend: tiling.Blend = "gaussian",
    batch_size: int = 1,
    mirror_axes: tuple[int, ...] = (),
    constraints: Constraints = Constraints(),  # noqa: B008 - frozen
    on_tiles: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Blended fp32 logits [C, Z, Y, X] of a scan of any size, on the CPU; smaller scans are padded to a tile."""
    shape = image_czyx.shape[1:]
    tile_zyx = tiling.slices_of(shape[0], tile_zyx, constraints)
    margins = tiling.padding((shape[0], shape[1], shape[2]), tile_zyx)
    padded = tiling.pad(image_czyx, tile_zyx, repeat_slices=constraints.dims == 2)
    padded = np.require(padded, np.float32, ("C", "W"))
    out: torch.Tensor | None = None
    (z0, _), (y0, _), (x0, _) = margins
    for z, slab in slabs(
        net, padded, tile_zyx, runtime=runtime, overlap=overlap, blend=blend,
        batch_size=batch_size, mirror_axes=mirror_axes, constraints=constraints, on_tiles=on_tiles,
    ):  # fmt: skip
        if out is None:
            out = torch.empty((slab.shape[0], *shape))
        low, high = max(z, z0), min(z + slab.shape[1], z0 + shape[0])
        if high > low:
            part = slab[:, low - z : high - z, y0 : y0 + shape[1], x0 : x0 + shape[2]]
            out[:, low - z0 : high - z0] = part
    assert out is not None
    return out


def predict_tiles(
    net: torch.nn.Module,
    image_czyx: NDArray[Any],
    tile_zyx: Zyx,
    overlap: float = 0.5,
    blend: tiling.Blend = "gaussian",
    output: Output = "logits",
    *,
    activation: Activation | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 1,
    mirror_axes: tuple[int, ...] = (),
    constraints: Constraints = Constraints(),  # noqa: B008 - frozen
    on_tiles: Callable[[int, int], None] | None = None,
) -> NDArray[Any]:
    """Run any network over a scan tile by tile.

    Tiles are spread evenly, the last one flush with the end; scans smaller than a tile are padded by reflection.
    Where tiles overlap, logits are averaged with the weights of `blend`, in fp32.

    Args:
        net: takes [B, C, Z, Y, X] and returns logits [B, K, Z, Y, X]; put in eval mode for the call.
        image_czyx: the scan as the network expects it, [C, Z, Y, X].
        tile_zyx: size of a tile in voxels.
        overlap: share of a tile that neighbours share, 0 to under 1.
        blend: `gaussian` or `constant`.
        output: `logits`, `probabilities` (needs `activation`) or `labels`.
        activation: `softmax` for exclusive classes, `sigmoid` for channels, `none` for values.
        device, precision: `auto`, or as on the command line.
        mirror_axes: spatial axes (0 z, 1 y, 2 x) whose mirrored views are averaged.
        constraints: of the network (`ArchitectureSpec.constraints_for`); slice-wise ones overlap along z by
            no more than the slices they look at, so that every slice is seen once with its neighbours.

    Returns:
        float32 [K, Z, Y, X]; for `labels` int64 [Z, Y, X] of class indices (softmax), or, with
        `activation="sigmoid"`, uint8 [K, Z, Y, X].

    Raises:
        BadInput: a wrong shape or setting.
    """
    if image_czyx.ndim != 4:
        raise BadInput(
            f"predict_tiles needs [C, Z, Y, X], not {image_czyx.ndim} axes.",
            hint="Add the channel axis: image[None]",
        )
    if output == "probabilities" and activation is None:
        raise BadInput(
            "Probabilities need an activation.", hint="activation='softmax' or 'sigmoid'"
        )
    if output not in ("logits", "probabilities", "labels"):
        raise BadInput(f"'{output}' is no output.", hint="logits, probabilities or labels")
    tile = (int(tile_zyx[0]), int(tile_zyx[1]), int(tile_zyx[2]))
    tiling.check(tile, overlap, constraints.context_slices)
    runtime = choose(device, precision)
    was_training = net.training
    net = runtime.place(net.eval())
    try:
        logits = predict_logits(
            net, np.ascontiguousarray(image_czyx, np.float32), tile, runtime=runtime,
            overlap=overlap, blend=blend, batch_size=batch_size, mirror_axes=mirror_axes,
            constraints=constraints, on_tiles=on_tiles,
        )  # fmt: skip
    finally:
        net.train(was_training)
    if output == "labels":
        chosen = (logits > 0).to(torch.uint8) if activation == "sigmoid" else logits.argmax(0)
        return chosen.numpy()
    if output == "probabilities":
        if activation == "softmax":
            logits = logits.softmax(0)
        elif activation == "sigmoid":
            logits = logits.sigmoid()
    return logits.numpy()
