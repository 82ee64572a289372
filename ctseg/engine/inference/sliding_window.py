"""`SlidingWindow`: runs networks over a scan of any length, tile by tile, and yields blended logits slab by slab.

Rows of tiles follow each other along z. Sums of logits are held for the depth of one tile, in a ring buffer of slices:
slices that no later tile touches are yielded, and their part of the ring is reused. A slice-wise network predicts the
same logits for a slice anywhere in a tile that holds its neighbours, so its tiles overlap along z by its context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.data.stream import Stream
from ctseg.engine.inference import tiling
from ctseg.engine.inference.backends.choice import Work, computation_of
from ctseg.engine.inference.forward import Forward, TileTooLarge, not_finite, out_of_memory, release
from ctseg.engine.inference.tiling_settings import TileGrid, TilingSettings
from ctseg.engine.model.malloc import kept_buffers
from ctseg.engine.model.runtime import Runtime
from ctseg.specs import Zyx

COMBINED_BYTES = 2**26
"""Approximate size of the slabs in which logits of several networks are yielded, since combining them takes copies."""

OnTiles = Callable[[int, int], None]
Slab = tuple[int, list[torch.Tensor]]


class Air(NamedTuple):
    """Tiles that need no network.

    Attributes:
        highest: [C], a tile without a voxel above these (preprocessed) values is air.
        logits: [K], what such a tile gets.
    """

    highest: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class SlidingWindow:
    """Networks that predict scans tile by tile.

    Attributes:
        networks: in eval mode, on the runtime's device; all predict the same tiles.
        settings: tiling of a scan.
        runtime: device and precision.
        on_tiles: called with (tiles done, tiles in total).
        on_note: called with notes about changes, such as a smaller batch.
    """

    networks: Sequence[torch.nn.Module]
    settings: TilingSettings
    runtime: Runtime
    on_tiles: OnTiles | None = None
    on_note: Callable[[str], None] | None = None

    def slabs(
        self, stream: Stream, *, span: tuple[int, int] | None = None, air: Air | None = None
    ) -> Iterator[Slab]:
        """Yield blended logits in slabs along z, each as soon as its last tile is predicted.

        Args:
            span: start and stop of the slices to predict. The rows of tiles are still those of the whole scan, so that
                parts predicted separately equal the whole bit for bit.
            air: tiles to skip; None to predict every tile.

        Yields:
            (first slice, fp32 logits [K, slices, Y, X] of each network), on the device of the sums; valid until the
            next slab is requested.

        Raises:
            TileTooLarge: one tile, or the sums, do not fit the memory.
            BadInput: a network returns something else than logits.
            RunFailed: logits are NaN or infinite.
        """
        return _Slabs(self, stream, span, air).run()


class _Slabs:
    def __init__(
        self,
        window: SlidingWindow,
        stream: Stream,
        span: tuple[int, int] | None,
        air: Air | None,
    ) -> None:
        channels, z, y, x = stream.shape_czyx
        settings, runtime, self.on_note = window.settings, window.runtime, window.on_note
        self.shape: Zyx = (z, y, x)
        self.stream, self.settings = stream, settings
        self.device = runtime.device
        self.grid = TileGrid(self.shape, settings)
        self.span = span or (0, z)
        self.rows = self.grid.rows(*self.span)
        self.air = air
        self.rings: list[torch.Tensor] = []
        self.total: torch.Tensor | None = None  # of the weights, where they are not normalised
        self.place = torch.device("cpu") if settings.sums_on_host else self.device
        self.weights = self._weights()
        self.on_tiles = window.on_tiles
        self.done, self.count = 0, len(self.rows) * len(self.grid.columns)
        work = Work((channels, *self.grid.tile_zyx), self.count * len(settings.views))
        self.forwards = [
            Forward(
                net,
                runtime,
                settings,
                self.on_note,
                computation_of(net, runtime, work, self.on_note),
            )
            for net in window.networks
        ]

    def run(self) -> Iterator[Slab]:
        depth, starts = self.grid.tile_zyx[0], self.grid.starts[0]
        with (
            kept_buffers(self.device.type == "cpu"),
            _Rows(self.stream, self.grid, self.rows, self.settings, self.device) as blocks,
        ):
            for row in self.rows:
                self._add(row, blocks.next())
                last = row + 1 == len(starts)
                end = self.grid.shape_zyx[0] if last else starts[row + 1]
                z = starts[row]
                while z < end:
                    stop = min(end, (z // depth + 1) * depth)  # the ring wraps around there
                    ring = slice(z % depth, z % depth + stop - z)
                    yield from self._cut(z, stop, ring)
                    for sums in self.rings:
                        sums[:, ring] = 0
                    if self.total is not None:
                        self.total[ring] = 0
                    z = stop

    def _add(self, row: int, block: torch.Tensor) -> None:
        """Predict all tiles of a row and add their logits to the rings."""
        ys, xs = self.grid.starts[1:]
        _, ty, tx = self.grid.tile_zyx
        group: list[tuple[int, int]] = []
        for yi, xi in self.grid.columns:
            tile = block[:, :, ys[yi] : ys[yi] + ty, xs[xi] : xs[xi] + tx]
            if self.air is not None and self._is_air(tile):
                self._blend(row, (yi, xi), None)
            else:
                group.append((yi, xi))
            if len(group) == self.settings.batch_size:
                self._predict(row, block, group)
                group = []
        if group:
            self._predict(row, block, group)

    def _is_air(self, tile: torch.Tensor) -> bool:
        assert self.air is not None
        return bool((tile.amax((1, 2, 3)) <= self.air.highest).all())

    def _predict(self, row: int, block: torch.Tensor, group: list[tuple[int, int]]) -> None:
        ys, xs = self.grid.starts[1:]
        _, ty, tx = self.grid.tile_zyx
        tiles = torch.stack([block[:, :, ys[j] : ys[j] + ty, xs[i] : xs[i] + tx] for j, i in group])
        outs = [forward(tiles) for forward in self.forwards]
        for number, column in enumerate(group):
            self._blend(row, column, [out[number] for out in outs])

    def _blend(self, row: int, column: tuple[int, int], outs: list[torch.Tensor] | None) -> None:
        z = self.grid.starts[0][row]
        depth, ty, tx = self.grid.tile_zyx
        (yi, xi) = column
        y, x = self.grid.starts[1][yi], self.grid.starts[2][xi]
        if outs is None:
            assert self.air is not None
            filled = self.air.logits[:, None, None, None].expand(-1, depth, ty, tx)
            outs = [filled] * len(self.forwards)
        if not self.rings:
            self._allocate([len(out) for out in outs])
        outs = [out.to(self.place) for out in outs]
        wz, wy, wx = self.weights[0][row], self.weights[1][yi], self.weights[2][xi]
        plane = wy[:, None] * wx
        turn = z % depth  # position of the tile's first slice in the ring
        for tile, ring in (
            (slice(0, depth - turn), slice(turn, depth)),
            (slice(depth - turn, depth), slice(0, turn)),
        ):
            if tile.stop > tile.start:
                weight = wz[tile, None, None] * plane
                if self.total is not None:
                    weight = weight.clamp_(min=self.grid.least_weight)
                    self.total[ring, y : y + ty, x : x + tx] += weight
                for out, sums in zip(outs, self.rings, strict=True):
                    sums[:, ring, y : y + ty, x : x + tx].addcmul_(out[:, tile], weight)
        self.done += 1
        if self.on_tiles:
            self.on_tiles(self.done, self.count)

    def _weights(self) -> list[list[torch.Tensor]]:
        return [[torch.from_numpy(w).to(self.place) for w in axis] for axis in self.grid.weights]

    def _allocate(self, classes: Sequence[int]) -> None:
        """Allocate the sums; in main memory if the device has no room for them."""
        depth, _, _ = self.grid.tile_zyx
        plane = self.grid.shape_zyx[1:]
        try:
            self.rings = [torch.zeros((k, depth, *plane), device=self.place) for k in classes]
            if self.grid.least_weight:
                self.total = torch.zeros((depth, *plane), device=self.place)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if self.place.type == "cpu":
                raise TileTooLarge(
                    f"The sums of {sum(classes)} logits of {depth} x {plane[0]} x {plane[1]} voxels do not fit "
                    "the memory.",
                    hint="Use thinner tiles: --tile Z,Y,X",
                ) from None
            release(self.place)
            self.place = torch.device("cpu")
            self.weights = self._weights()
            self._allocate(classes)
            if self.on_note:
                self.on_note("Device memory was short: sums of logits are held in main memory.")

    def _cut(self, start: int, stop: int, ring: slice) -> Iterator[Slab]:
        """Yield completed slices, without padding and within the requested span."""
        (z0, _), (y0, _), (x0, _) = self.grid.margins
        low = max(start - z0, self.span[0])
        high = min(stop - z0, self.span[1])
        step = stop - start
        if len(self.rings) > 1:  # cut at places that are independent of the requested span
            slice_bytes = 4 * len(self.rings[0]) * self.shape[1] * self.shape[2]
            step = max(COMBINED_BYTES // slice_bytes, 1)
        for first in range(start, stop, step):
            at, end = max(first - z0, low), min(first + step - z0, high)
            if end <= at:
                continue
            begin = ring.start + at + z0 - start
            box = (slice(None), slice(begin, begin + end - at),
                   slice(y0, y0 + self.shape[1]), slice(x0, x0 + self.shape[2]))  # fmt: skip
            outs = [sums[box] for sums in self.rings]
            if self.total is not None:
                outs = [out / self.total[box[1:]] for out in outs]
            self._check_finite(outs)
            yield at, outs

    def _check_finite(self, outs: Sequence[torch.Tensor]) -> None:
        for out, forward in zip(outs, self.forwards, strict=True):
            # the sum takes one pass and no tensor, but a sum of large finite numbers may be infinite
            if not math.isfinite(out.sum()) and not out.isfinite().all():
                raise not_finite(forward.network, forward.runtime.precision)


class _Rows:
    """Reads the scan row by row, as [C, tile, Y, X] padded on the device; each slice is read once.

    On a GPU the next row is read while the network works on this one; on the CPU both would compete for the cores.
    """

    def __init__(
        self,
        stream: Stream,
        grid: TileGrid,
        rows: range,
        settings: TilingSettings,
        device: torch.device,
    ) -> None:
        self._stream, self._grid, self._device = stream, grid, device
        self._slicewise = settings.constraints.dims == 2
        self._padding = settings.padding
        self._rows = iter(rows)
        self._last = rows[-1]
        self._row: torch.Tensor | None = None
        self._stop = 0  # end of the current row in the padded scan
        self._pool = None if device.type == "cpu" else ThreadPoolExecutor(1)
        self._prefetch: Future[NDArray[np.float32]] | None = None

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> torch.Tensor:
        number = next(self._rows)
        z, depth = self._grid.starts[0][number], self._grid.tile_zyx[0]
        reused = 0
        if self._row is None:
            shape = (self._stream.shape_czyx[0], depth, *self._grid.shape_zyx[1:])
            row = self._row = torch.empty(shape, device=self._device)
        else:
            row, reused = self._row, max(self._stop - z, 0)
            for i in range(reused):  # slice by slice, since source and target overlap
                row[:, i] = row[:, i + depth - reused]
        if self._pool is None:
            self._read(z + reused, row[:, reused:].numpy())
        elif self._prefetch is None:
            row[:, reused:] = torch.from_numpy(self._new_slices(z + reused)).to(self._device)
        else:
            row[:, reused:] = torch.from_numpy(self._prefetch.result()).to(self._device)
        self._stop = z + depth
        if self._pool is not None and number != self._last:
            next_z = self._grid.starts[0][number + 1]
            self._prefetch = self._pool.submit(self._new_slices, max(next_z, self._stop), next_z)
        return row

    def _new_slices(self, start: int, row_start: int | None = None) -> NDArray[np.float32]:
        """Slices from `start` to the end of the row of tiles that begins at `row_start` (`start` by default)."""
        stop = (start if row_start is None else row_start) + self._grid.tile_zyx[0]
        shape = (self._stream.shape_czyx[0], stop - start, *self._grid.shape_zyx[1:])
        out = np.empty(shape, np.float32)
        self._read(start, out)
        return out

    def _read(self, start: int, out_czyx: NDArray[np.float32]) -> None:
        """Read slices of the padded scan, from `start` on.

        Only a scan that is shorter than a tile is padded along z; it is read in one go.
        """
        stop, depth = start + out_czyx.shape[1], self._stream.shape_czyx[1]
        tile = self._grid.tile_zyx
        if depth < tile[0]:
            part = self._stream.read(0, depth)
            out_czyx[:] = tiling.pad(part, tile, repeat_slices=self._slicewise, mode=self._padding)
        elif out_czyx.shape[2:] == self._stream.shape_czyx[2:]:
            self._stream.read(start, stop, out_czyx)
        else:
            part = self._stream.read(start, stop)
            out_czyx[:] = tiling.pad(part, (stop - start, *tile[1:]), mode=self._padding)
