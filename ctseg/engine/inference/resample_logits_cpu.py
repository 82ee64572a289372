"""Linear interpolation on the CPU, in blocks that fit in the cache and only for the classes that can win.

Every value is computed by the same operations in the same order wherever its block begins (z, then x, then y; on each
axis a + w * (b - a), one correctly rounded operation after another), so it is independent of blocks and threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.errors import RunFailed

CELLS_ZYX, OUTPUTS_ZYX = (16, 16, 32), (48, 48, 96)
"""Voxels of the low grid that a block covers, and the largest number of positions in it.

Measured with 117 classes on a core with 1 MiB of second-level cache: smaller blocks have fewer candidate classes,
larger ones need fewer calls.
"""
ROW_CELLS_ZYX, ROW_OUTPUTS_ZYX = (16, 64, 256), (48, 128, 512)
"""The same for `fill_all`, which interpolates all classes."""
ROUNDING = 2e-6
"""A safe bound on how far rounding carries a value beyond its corners, relative to the largest corner.

An axis adds at most 5 * 2**-24: a difference of up to twice the corner, its product, and the sum; three axes add 9e-7.
"""

Float = NDArray[np.float32]
Fill = Callable[["Block", Float, Float], NDArray[Any]]
"""Computes values [n_z, n_y, n_x] of a block, from the largest and smallest corner of each class [C]."""


@dataclass(frozen=True)
class Taps:
    """Linear interpolation at N positions along one axis: values[index] + weight * (next - values[index]).

    Attributes:
        index: [N], the sample before each position.
        weight: [N] in [0, 1), 0 at the last sample; float32.
    """

    index: NDArray[np.intp]
    weight: Float

    @cached_property
    def plain(self) -> bool:
        """Whether every position is a sample."""
        return not self.weight.any()

    @cached_property
    def counting(self) -> bool:
        """Whether the positions are the first samples, in their order."""
        return self.plain and np.array_equal(self.index, np.arange(len(self.index)))

    def identity(self, n_in: int) -> bool:
        """Whether the positions are all the samples, in their order."""
        return len(self.index) == n_in and self.counting


@dataclass(frozen=True)
class Run:
    """Neighbouring positions start:stop of an axis, and the samples low[first:last] that they depend on."""

    start: int
    stop: int
    first: int
    last: int
    taps: Taps

    @property
    def out(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def low(self) -> slice:
        return slice(self.first, self.last)


@dataclass(frozen=True)
class Block:
    """A box of positions; `low_czyx` is the whole low grid."""

    low_czyx: torch.Tensor
    z: Run
    y: Run
    x: Run

    def corners(self, k: int) -> Float:
        """The samples of class k that the block depends on."""
        return float32(self.low_czyx[k, self.z.low, self.y.low, self.x.low])

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = (run.stop - run.start for run in (self.z, self.y, self.x))
        return z, y, x

    def values(self, k: int) -> Float:
        """Class k at the positions, float32 [n_z, n_y, n_x]."""
        out = self.corners(k)
        for axis, run in ((0, self.z), (2, self.x), (1, self.y)):
            out = lerp(out, run.taps, axis)
        return out


def taps_at(positions: NDArray[np.float64], n_in: int) -> Taps:
    """Taps at positions in voxels; positions beyond an end take the last sample there."""
    inside = np.clip(np.asarray(positions, np.float64), 0, n_in - 1)
    index = np.floor(inside)
    return Taps(index.astype(np.intp), (inside - index).astype(np.float32))


def lerp(values: Float, taps: Taps, axis: int) -> Float:
    """Interpolate values [Z, Y, X] along one axis; the taps count from its first sample."""
    if taps.identity(values.shape[axis]):
        return values
    out: Float = values.take(taps.index, axis, mode="clip")
    if taps.plain:
        return out
    before, after = (
        (values[:-1], values[1:]) if axis == 0
        else (values[:, :-1], values[:, 1:]) if axis == 1
        else (values[..., :-1], values[..., 1:])
    )  # fmt: skip
    # the weight is 0 where the index points beyond the last difference
    steps: Float = np.subtract(after, before).take(taps.index, axis, mode="clip")
    steps *= taps.weight.reshape([-1 if a == axis else 1 for a in range(3)])
    steps += out
    return steps


def runs(taps: Taps, cells: int, outputs: int) -> list[Run]:
    """Cut an axis into runs of about `cells` samples and at most `outputs` positions."""
    count = len(taps.index)
    if not count:
        return []
    after = taps.index + (taps.weight > 0)
    span = int(after.max() - taps.index.min()) + 1
    parts = min(max(math.ceil(span / cells), math.ceil(count / outputs)), count)
    out = []
    for part in np.array_split(np.arange(count), parts):
        start, stop = int(part[0]), int(part[-1]) + 1
        index = taps.index[start:stop]
        first, last = int(index.min()), int(after[start:stop].max()) + 1
        out.append(Run(start, stop, first, last, Taps(index - first, taps.weight[start:stop])))
    return out


def lower_bound(block: Block, classes: Sequence[int]) -> float:
    """A lower bound of the largest interpolated class, everywhere in the block.

    The maximum of some functions is at least their mean, and the mean of linear interpolations is itself a linear
    interpolation: it is at least its smallest corner. At a border between two classes both have low corners, but their
    mean does not. So each cell takes the best bound from the means of a few classes, and the block the least of its
    cells.
    """
    sums: list[Float | None] = [None]
    best: Float | None = None
    for k in classes:
        values = block.corners(k)
        sums += [values if s is None else s + values for s in sums]
    for members, total in enumerate(sums):
        if total is not None:
            least = _cells(total) * np.float32(1 / members.bit_count())
            best = least if best is None else np.maximum(best, least, out=best)
    assert best is not None
    return float(best.min())


def _cells(corners_zyx: Float) -> Float:
    """The smallest corner of each cell."""
    out = corners_zyx
    if len(out) > 1:
        out = np.minimum(out[:-1], out[1:])
    if out.shape[1] > 1:
        out = np.minimum(out[:, :-1], out[:, 1:])
    if out.shape[2] > 1:
        out = np.minimum(out[..., :-1], out[..., 1:])
    return out


def fill(
    low_czyx: torch.Tensor,
    taps_zyx: Sequence[Taps],
    out_zyx: NDArray[Any],
    make: Fill,
    threads: int,
) -> None:
    """Write the values that `make` computes for every block into out [n_z, n_y, n_x].

    Raises:
        RunFailed: NaN or infinity among the logits.
    """
    z_runs, y_runs, x_runs = _grid(taps_zyx, CELLS_ZYX, OUTPUTS_ZYX)

    def row(runs_zy: tuple[Run, Run]) -> None:
        z, y = runs_zy
        highest, lowest = _corners(low_czyx[:, z.low, y.low], x_runs)
        check_finite(float(highest.max()))
        for x, high, low in zip(x_runs, highest, lowest, strict=True):
            out_zyx[z.out, y.out, x.out] = make(Block(low_czyx, z, y, x), high, low)

    _each(row, [(z, y) for z in z_runs for y in y_runs], threads)


def check_finite(highest: float) -> None:
    """Reject logits with NaN or infinity.

    Args:
        highest: the largest logit; NaN if any is NaN.
    """
    if not highest < math.inf:
        raise RunFailed(
            "The network gave NaN or infinite values.",
            hint="Predict with --precision fp32; if that does not help, its weights are damaged.",
        )


def fill_all(
    low_czyx: torch.Tensor, taps_zyx: Sequence[Taps], out_czyx: Float, threads: int
) -> None:
    """Write the interpolated values of every class into out [C, n_z, n_y, n_x]."""
    z_runs, y_runs, x_runs = _grid(taps_zyx, ROW_CELLS_ZYX, ROW_OUTPUTS_ZYX)

    def row(item: tuple[int, Run, Run]) -> None:
        k, z, y = item
        for x in x_runs:
            out_czyx[k, z.out, y.out, x.out] = Block(low_czyx, z, y, x).values(k)

    items = [(k, z, y) for k in range(len(low_czyx)) for z in z_runs for y in y_runs]
    _each(row, items, threads)


def float32(values: torch.Tensor) -> Float:
    """A tensor on the CPU as a float32 array; a float32 tensor is not copied."""
    if values.dtype == torch.float16:  # unlike torch, NumPy converts without starting threads
        return values.numpy().astype(np.float32)
    out: Float = values.float().numpy()
    return out


def _grid(
    taps_zyx: Sequence[Taps], cells_zyx: Sequence[int], outputs_zyx: Sequence[int]
) -> list[list[Run]]:
    return [runs(*of_axis) for of_axis in zip(taps_zyx, cells_zyx, outputs_zyx, strict=True)]


def _corners(low_czyx: torch.Tensor, x_runs: list[Run]) -> tuple[Float, Float]:
    """The largest and the smallest value of each class among the samples of each run, both [runs, C]."""
    high, low = np.empty((2, len(low_czyx), low_czyx.shape[-1]), np.float32)
    for k, class_zyx in enumerate(low_czyx):
        values = float32(class_zyx)
        values.max(0).max(0, out=high[k])
        values.min(0).min(0, out=low[k])
    highest = np.stack([high[:, run.low].max(1) for run in x_runs])
    lowest = np.stack([low[:, run.low].min(1) for run in x_runs])
    return highest, lowest


def _each(call: Callable[[Any], None], items: Iterable[Any], threads: int) -> None:
    """Call a function with each item, in as many threads as torch uses: NumPy releases the GIL as it computes."""
    items = list(items)
    if min(threads, len(items)) < 2:
        for item in items:
            call(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(call, items):
            pass
