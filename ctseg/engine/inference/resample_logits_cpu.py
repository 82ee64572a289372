"""The CPU's way through a block of linear interpolation: small, in cache, and only with the classes that can matter.

Every value is made by the same operations in the same order wherever its block begins (z, then x, then y; on each
axis a + w * (b - a), one correctly rounded operation after the other), so blocks and threads leave no trace.
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
"""How many voxels of the low grid a block covers, and how many positions it holds at most.

Measured with 117 classes on a core with 1 MiB of second-level cache: smaller blocks hold fewer classes, larger ones
cost fewer calls.
"""
ROW_CELLS_ZYX, ROW_OUTPUTS_ZYX = (16, 64, 256), (48, 128, 512)
"""The same where nothing is chosen and all values are wanted."""
ROUNDING = 2e-6
"""How far rounding may carry a value beyond its corners, of the largest of them, with room to spare.

An axis adds at most 5 * 2**-24: a difference of up to twice the corner, its product, and the sum; so three add 9e-7.
"""

Float = NDArray[np.float32]
Fill = Callable[["Block", Float, Float], NDArray[Any]]
"""Values [n_z, n_y, n_x] of a block, from the largest and smallest corner of each class [C]."""


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
    """Some neighbouring positions of an axis and the samples low[first:last] that they are made of."""

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
        """The samples of class k that the block is made of."""
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
    """Taps at positions in voxels; those beyond an end take the sample there."""
    inside = np.clip(np.asarray(positions, np.float64), 0, n_in - 1)
    index = np.floor(inside)
    return Taps(index.astype(np.intp), (inside - index).astype(np.float32))


def lerp(values: Float, taps: Taps, axis: int) -> Float:
    """One axis of values [Z, Y, X]; the taps count from its first sample."""
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
    """An axis cut into runs of about `cells` samples and at most `outputs` positions."""
    count = len(taps.index)
    if not count:
        return []
    after = taps.index + (taps.weight > 0)
    span = int(after.max() - taps.index.min()) + 1
    pieces = min(max(math.ceil(span / cells), math.ceil(count / outputs)), count)
    found = []
    for part in np.array_split(np.arange(count), pieces):
        start, stop = int(part[0]), int(part[-1]) + 1
        index = taps.index[start:stop]
        first, last = int(index.min()), int(after[start:stop].max()) + 1
        found.append(Run(start, stop, first, last, Taps(index - first, taps.weight[start:stop])))
    return found


def lower_bound(block: Block, classes: Sequence[int]) -> float:
    """A value that the largest of all interpolated classes is never below, anywhere in the block.

    The largest of some functions is nowhere below their mean, and the mean of linear interpolations is one itself: it
    lies above its smallest corner. Where two classes meet, both are low there, and their mean is not. So each cell
    takes the best of the means of a few classes, and the block the least of its cells.
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
    """Write what `make` finds for every block into out [n_z, n_y, n_x].

    Raises:
        RunFailed: NaN or infinity among the logits.
    """
    z_runs, y_runs, x_runs = _grid(taps_zyx, CELLS_ZYX, OUTPUTS_ZYX)

    def row(place: tuple[Run, Run]) -> None:
        z, y = place
        highest, lowest = _corners(low_czyx[:, z.low, y.low], x_runs)
        check_finite(float(highest.max()))
        for x, high, low in zip(x_runs, highest, lowest, strict=True):
            out_zyx[z.out, y.out, x.out] = make(Block(low_czyx, z, y, x), high, low)

    _each(row, [(z, y) for z in z_runs for y in y_runs], threads)


def check_finite(highest: float) -> None:
    """Refuse logits of which none can be the strongest.

    Args:
        highest: the largest of them; NaN where any is.
    """
    if not highest < math.inf:
        raise RunFailed(
            "The network gave NaN or infinite values.",
            hint="Predict with --precision fp32; if that helps nothing, its weights are of no use.",
        )


def fill_all(
    low_czyx: torch.Tensor, taps_zyx: Sequence[Taps], out_czyx: Float, threads: int
) -> None:
    """Write the interpolated values of every class into out [C, n_z, n_y, n_x]."""
    z_runs, y_runs, x_runs = _grid(taps_zyx, ROW_CELLS_ZYX, ROW_OUTPUTS_ZYX)

    def row(place: tuple[int, Run, Run]) -> None:
        k, z, y = place
        for x in x_runs:
            out_czyx[k, z.out, y.out, x.out] = Block(low_czyx, z, y, x).values(k)

    places = [(k, z, y) for k in range(len(low_czyx)) for z in z_runs for y in y_runs]
    _each(row, places, threads)


def float32(values: torch.Tensor) -> Float:
    """A tensor on the CPU as float32, without a copy where it is that already."""
    if values.dtype == torch.float16:  # NumPy's conversion starts no threads of its own
        return values.numpy().astype(np.float32)
    found: Float = values.float().numpy()
    return found


def _grid(
    taps_zyx: Sequence[Taps], cells_zyx: Sequence[int], outputs_zyx: Sequence[int]
) -> list[list[Run]]:
    return [runs(*of_axis) for of_axis in zip(taps_zyx, cells_zyx, outputs_zyx, strict=True)]


def _corners(low_czyx: torch.Tensor, x_runs: list[Run]) -> tuple[Float, Float]:
    """The largest and the smallest value of each class among the samples of each run, [runs, C] each."""
    high, low = np.empty((2, len(low_czyx), low_czyx.shape[-1]), np.float32)
    for k, class_zyx in enumerate(low_czyx):
        values = float32(class_zyx)
        values.max(0).max(0, out=high[k])
        values.min(0).min(0, out=low[k])
    highest = np.stack([high[:, run.low].max(1) for run in x_runs])
    lowest = np.stack([low[:, run.low].min(1) for run in x_runs])
    return highest, lowest


def _each(call: Callable[[Any], None], places: Iterable[Any], threads: int) -> None:
    """In as many threads as torch may use: NumPy lets go of the interpreter while it computes."""
    places = list(places)
    if min(threads, len(places)) < 2:
        for place in places:
            call(place)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(call, places):
            pass
