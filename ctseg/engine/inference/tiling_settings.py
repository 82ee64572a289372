"""`TilingSettings` and `TileGrid`: the tiling of a scan."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctseg.engine.inference import tiling
from ctseg.specs import Constraints, Zyx


@dataclass(frozen=True)
class TilingSettings:
    """Settings for the tiling of a scan.

    Attributes:
        tile_zyx: size of a tile in voxels, which the network accepts.
        overlap: fraction of a tile that overlaps with its neighbour, for all axes or for each (z, y, x).
        blend: weights of overlapping tiles.
        mirror_axes: spatial axes 0..2 whose mirrored views are averaged.
        batch_size: tiles (and their mirrored views) in a batch.
        constraints: constraints of the network.
        skip_air: a tile whose voxels are all at or below this value of the scan (HU in CT) becomes background without
            running the network; None to predict every tile.
        sums_on_host: hold the sums of logits in main memory instead of on the device.
        padding: padding of a scan smaller than a tile.
        average: quantity that the networks of an ensemble average.
    """

    tile_zyx: Zyx
    overlap: tiling.Overlap = 0.5
    blend: tiling.Blend = "gaussian"
    mirror_axes: tuple[int, ...] = ()
    batch_size: int = 1
    constraints: Constraints = Constraints()  # noqa: RUF009 - frozen
    skip_air: float | None = None
    sums_on_host: bool = False
    padding: tiling.Padding = "reflect"
    average: Literal["probabilities", "logits"] = "probabilities"

    @property
    def views(self) -> list[tuple[int, ...]]:
        """The axes that each of the 2^n mirrored views flips; the unmirrored view comes first."""
        return [
            axes
            for n in range(len(self.mirror_axes) + 1)
            for axes in itertools.combinations(self.mirror_axes, n)
        ]


class TileGrid:
    """The tiles of one scan.

    Weights are normalised: they are divided by their sum, which is a product over the axes since tiles form a grid.
    So the sum of the weighted tiles is their mean. Where `least_weight` limits the product of the weights, as in
    `monai_gaussian`, their sum is no product; it is found while tiles are added up.

    Attributes:
        tile_zyx: size of a tile in voxels.
        margins: voxels of padding before and after each axis of a scan smaller than a tile.
        shape_zyx: shape of the padded scan.
        starts: first voxels of the tiles along each axis of the padded scan.
        weights: along each axis, for each start, [tile] float32.
        least_weight: lower limit of the product of the weights; 0 where there is none.
    """

    def __init__(self, shape_zyx: Zyx, settings: TilingSettings) -> None:
        constraints = settings.constraints
        self.tile_zyx = tiling.slices_of(shape_zyx[0], settings.tile_zyx, constraints)
        self.margins = tiling.padding(shape_zyx, self.tile_zyx)
        z, y, x = (n + sum(m) for n, m in zip(shape_zyx, self.margins, strict=True))
        self.shape_zyx: Zyx = (z, y, x)
        along_z, along_y, along_x = tiling.overlap_zyx(settings.overlap)
        axes: list[tuple[float, tiling.Blend, int]] = [
            (along_z, settings.blend, constraints.context_slices),
            (along_y, settings.blend, 0),
            (along_x, settings.blend, 0),
        ]
        if constraints.dims == 2:  # a slice-wise network predicts the same for a slice in any tile
            axes[0] = (0.0, "constant", constraints.context_slices)
        self.least_weight = tiling.least_weight(self.tile_zyx, settings.blend)
        self.starts: list[list[int]] = []
        self.weights: list[list[NDArray[np.float32]]] = []
        for size, tile, axis in zip(self.shape_zyx, self.tile_zyx, axes, strict=True):
            overlap, blend, context = axis
            starts = tiling.starts(size, tile, overlap, context, blend)
            windows = tiling.windows(size, tile, overlap, blend, context)
            total = tiling.total_weight(size, tile, overlap, blend, context)
            if self.least_weight:  # not normalised
                total[:] = 1
            self.starts.append(starts)
            self.weights.append(
                [
                    (w / total[s : s + tile]).astype(np.float32)
                    for s, w in zip(starts, windows, strict=True)
                ]
            )

    @property
    def columns(self) -> list[tuple[int, int]]:
        """The tiles of a row, as indices of their starts along y and x."""
        return list(itertools.product(range(len(self.starts[1])), range(len(self.starts[2]))))

    @property
    def tiles(self) -> int:
        """The total number of tiles."""
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    @property
    def ends(self) -> list[int]:
        """The ends of the slabs of completed slices, in the scan without padding."""
        before, depth = self.margins[0][0], self.tile_zyx[0]
        row_ends = {*self.starts[0][1:], self.shape_zyx[0]}
        wraps = range(depth, self.shape_zyx[0], depth)  # where the ring of slices wraps around
        last = self.shape_zyx[0] - sum(self.margins[0])
        return sorted({min(max(end - before, 0), last) for end in row_ends.union(wraps)})

    def rows(self, start: int, stop: int) -> range:
        """The rows of tiles that overlap slices start to stop of the scan without padding."""
        before, depth = self.margins[0][0], self.tile_zyx[0]
        touching = [
            i
            for i, z in enumerate(self.starts[0])
            if z < stop + before and z + depth > start + before
        ]
        return range(touching[0], touching[-1] + 1)
