"""How a scan is tiled, and where the tiles lie."""

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
    """How a scan is tiled.

    Attributes:
        tile_zyx: voxels, as the network accepts them.
        overlap: share of a tile that neighbours share, for all axes or for each (z, y, x).
        blend: weights where tiles overlap.
        mirror_axes: spatial axes 0..2 whose mirrored views are averaged.
        batch_size: tiles (and views of them) that go through the network together.
        constraints: of the network.
        skip_air: a tile whose voxels are all at or below this value of the scan (HU in CT) is taken for background
            without the network; None for never.
        sums_on_host: hold the sums of logits in main memory and not on the device.
        padding: what lies around a scan smaller than a tile.
        average: what the networks of an ensemble average.
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
        """The axes that each of the 2^n mirrored views flips, the scan as it is first."""
        return [
            axes
            for n in range(len(self.mirror_axes) + 1)
            for axes in itertools.combinations(self.mirror_axes, n)
        ]


class TileGrid:
    """The tiles of one scan.

    Weights are divided by their sum beforehand, which is a product over the axes since tiles form a grid. So what
    the tiles add up to needs no division any more.

    Attributes:
        tile_zyx: voxels of a tile.
        margins: voxels put before and after each axis of a scan smaller than a tile.
        shape_zyx: of the padded scan.
        starts: first voxels of the tiles along each axis of the padded scan.
        weights: along each axis, for each start, [tile] float32.
    """

    def __init__(self, shape_zyx: Zyx, settings: TilingSettings) -> None:
        demands = settings.constraints
        self.tile_zyx = tiling.slices_of(shape_zyx[0], settings.tile_zyx, demands)
        self.margins = tiling.padding(shape_zyx, self.tile_zyx)
        z, y, x = (n + sum(m) for n, m in zip(shape_zyx, self.margins, strict=True))
        self.shape_zyx: Zyx = (z, y, x)
        # a slice-wise network gains nothing from a second look at a slice
        flat = demands.dims == 2
        along_z, along_y, along_x = tiling.overlap_zyx(settings.overlap)
        ways: list[tuple[float, tiling.Blend, int]] = [
            (along_z, settings.blend, demands.context_slices),
            (along_y, settings.blend, 0),
            (along_x, settings.blend, 0),
        ]
        if flat:
            ways[0] = (0.0, "constant", demands.context_slices)
        self.starts: list[list[int]] = []
        self.weights: list[list[NDArray[np.float32]]] = []
        for size, tile, way in zip(self.shape_zyx, self.tile_zyx, ways, strict=True):
            overlap, blend, context = way
            starts = tiling.starts(size, tile, overlap, context)
            windows = tiling.windows(size, tile, overlap, blend, context)
            total = np.zeros(size, np.float64)
            for start, window in zip(starts, windows, strict=True):
                total[start : start + tile] += window
            self.starts.append(starts)
            self.weights.append(
                [
                    (w / total[s : s + tile]).astype(np.float32)
                    for s, w in zip(starts, windows, strict=True)
                ]
            )

    @property
    def columns(self) -> list[tuple[int, int]]:
        """The tiles of a row: which start along y, and along x."""
        return list(itertools.product(range(len(self.starts[1])), range(len(self.starts[2]))))

    @property
    def tiles(self) -> int:
        """The number of tiles in all."""
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    @property
    def ends(self) -> list[int]:
        """Where slabs of finished slices end, on the scan that is not padded."""
        before, depth = self.margins[0][0], self.tile_zyx[0]
        finished = {*self.starts[0][1:], self.shape_zyx[0]}
        turns = range(depth, self.shape_zyx[0], depth)  # where the ring of slices begins anew
        last = self.shape_zyx[0] - sum(self.margins[0])
        return sorted({min(max(end - before, 0), last) for end in finished.union(turns)})

    def rows(self, start: int, stop: int) -> range:
        """The rows of tiles that touch the slices (of the scan, not padded) from start to before stop."""
        before, depth = self.margins[0][0], self.tile_zyx[0]
        touching = [
            i
            for i, z in enumerate(self.starts[0])
            if z < stop + before and z + depth > start + before
        ]
        return range(touching[0], touching[-1] + 1)
