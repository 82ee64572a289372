"""Linear interpolation of logits to another grid: values, labels and confidence, without holding all classes at once.

Positions are in voxels of the low grid, one array for each axis, in any order; beyond its ends the grid repeats its
edge. The CPU works block by block: an interpolated value lies between those of the corners around it, so a class whose
largest corner in a block is below the smallest corner of another one cannot win there. Of 117 classes that leaves a
few, and a single one needs no interpolation. Other devices (CUDA) process all classes in chunks with a running maximum.
All implementations round alike: `argmax_at` is the argmax of `interpolate` bit for bit, whatever the chunks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ctseg.engine.inference import resample_logits_cpu as blocks
from ctseg.engine.inference.resample_logits_cpu import Block, Float, Taps, taps_at
from ctseg.errors import BadInput

Positions = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
CHUNK_BYTES = 2**26
NEGLIGIBLE = 1e-7
"""A softmax omits the classes whose probabilities sum to less than this."""
CACHED_VOXELS = 2**16
"""Voxels in a step of an argmax without interpolation, so that a few arrays of them stay in the cache."""
MANY_CANDIDATES, TOP_CANDIDATES = 6, 5
"""With more candidates than the first number, a tighter bound is computed from the top ones; measured."""


@torch.no_grad()
def interpolate(low_czyx: torch.Tensor, positions_zyx: Positions) -> torch.Tensor:
    """Interpolate every class at every position.

    Args:
        low_czyx: [C, Z, Y, X], finite, any floating type.
        positions_zyx: positions along each axis, in voxels of that axis.

    Returns:
        float32 [C, n_z, n_y, n_x] on the same device. If the positions are the voxels themselves, the input is
        returned without a copy.

    Raises:
        BadInput: the input lacks voxels or one of its four axes, or positions are not a list of finite numbers.
    """
    taps_zyx = _taps(low_czyx, positions_zyx)
    low_czyx = low_czyx.detach()
    if all(t.identity(n) for t, n in zip(taps_zyx, low_czyx.shape[1:], strict=True)):
        return low_czyx.float()
    if low_czyx.device.type != "cpu":
        return _lerp_all(low_czyx, taps_zyx)
    out = torch.empty((len(low_czyx), *_shape(taps_zyx)), dtype=torch.float32)
    blocks.fill_all(low_czyx, taps_zyx, out.numpy(), torch.get_num_threads())
    return out


def argmax_at(
    low_czyx: torch.Tensor, positions_zyx: Positions, *, chunk_bytes: int = CHUNK_BYTES
) -> torch.Tensor:
    """The class with the largest interpolated value; the first one of a tie.

    Args:
        low_czyx: [C, Z, Y, X], finite, any floating type.
        positions_zyx: positions along each axis, in voxels of that axis.
        chunk_bytes: approximate working memory on a device other than a CPU.

    Returns:
        [n_z, n_y, n_x] on the same device: uint8, or int16 or int32 for many classes.

    Raises:
        RunFailed: NaN or infinity among the logits; `confidence` and `last_positive_at` raise it, too.
    """

    def make(block: Block, high: Float, low: Float) -> NDArray[np.integer]:
        first, *others = _argmax_candidates(block, high, low)
        if not others:
            return np.asarray(first, dtype)
        best = block.values(first)
        label = np.full(block.shape, first, dtype)
        for k in others:  # ascending, so that the latest label is the largest
            values = block.values(k)
            np.maximum(label, np.multiply(values > best, dtype.type(k), dtype=dtype), out=label)
            best = np.maximum(best, values)  # out of place, since values may be a view of the input
        return label

    def plain(chunk: _Chunk, out: torch.Tensor) -> None:
        best: torch.Tensor | None = None
        for start, values in chunk.classes():
            top, which = values.max(0)
            label = (which + start).to(out.dtype)
            if best is None:
                out.copy_(label)
                best = top
            else:
                torch.where(top > best, label, out, out=out)
                torch.maximum(best, top, out=best)

    dtype = _dtype(len(low_czyx) - 1)
    taps_zyx = _taps(low_czyx, positions_zyx)
    same = all(t.identity(n) for t, n in zip(taps_zyx, low_czyx.shape[1:], strict=True))
    if same and low_czyx.device.type == "cpu":
        return _largest(low_czyx.detach(), dtype)
    return _make(low_czyx, positions_zyx, dtype, make, plain, chunk_bytes)


@torch.no_grad()
def _largest(low_czyx: torch.Tensor, dtype: np.dtype[np.generic]) -> torch.Tensor:
    """The argmax without interpolation, in rows that stay in the cache."""
    _, depth, height, width = low_czyx.shape
    out = torch.empty((depth, height, width), dtype=getattr(torch, dtype.name))
    rows = max(1, CACHED_VOXELS // width)
    for z, y in itertools.product(range(depth), range(0, height, rows)):
        part = (z, slice(y, y + rows))
        best, label = low_czyx[(0, *part)], out[part].zero_()
        for k in range(1, len(low_czyx)):
            values = low_czyx[(k, *part)]
            label.masked_fill_(values > best, k)
            best = torch.maximum(best, values)
        blocks.check_finite(float(best.max()))
    return out


def confidence(
    low_czyx: torch.Tensor,
    positions_zyx: Positions,
    *,
    temperature: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> torch.Tensor:
    """The softmax probability of the most probable class, from interpolated logits.

    Args:
        temperature: divisor of the logits.

    Returns:
        float32 [n_z, n_y, n_x] in (0, 1].

    Raises:
        BadInput: the temperature is not above 0.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise BadInput(f"A temperature is a number above 0, not {temperature:g}.")
    scale = np.float32(1 / temperature)

    def make(block: Block, high: Float, low: Float) -> Float:
        first, *others = _softmax_candidates(block, high, low, float(scale))
        if not others:
            return np.ones((), np.float32)
        best = block.values(first) * scale
        total = np.ones_like(best)
        for k in others:
            values = block.values(k) * scale
            higher = np.maximum(best, values)
            total *= np.exp(np.subtract(best, higher, out=best), out=best)
            total += np.exp(np.subtract(values, higher, out=values), out=values)
            best = higher
        return np.reciprocal(total, out=total)

    def plain(chunk: _Chunk, out: torch.Tensor) -> None:
        best: torch.Tensor | None = None
        for _, values in chunk.classes():
            values *= float(scale)
            top = values.amax(0)
            if best is None:
                best, total = top, torch.zeros_like(top)
            higher = torch.maximum(best, top)
            total = total * (best - higher).exp_() + values.sub_(higher).exp_().sum(0)
            best = higher
        out.copy_(total.reciprocal_())

    return _make(low_czyx, positions_zyx, np.dtype(np.float32), make, plain, chunk_bytes)


def last_positive_at(
    low_czyx: torch.Tensor, positions_zyx: Positions, *, chunk_bytes: int = CHUNK_BYTES
) -> torch.Tensor:
    """One plus the index of the last class whose interpolated value is above 0; 0 if there is none.

    Ordered regions are written this way; see `ctseg.task.decode`.

    Returns:
        [n_z, n_y, n_x] on the same device: uint8, or int16 or int32 for many classes.
    """
    dtype = _dtype(len(low_czyx))

    def make(block: Block, high: Float, low: Float) -> NDArray[np.integer]:
        margin = _margin(high, low)
        positive = np.flatnonzero(low - margin > 0)  # above 0 everywhere in the block
        bottom = int(positive[-1]) if len(positive) else -1
        undecided = bottom + 1 + np.flatnonzero((high + margin > 0)[bottom + 1 :])
        if not len(undecided):
            return np.asarray(bottom + 1, dtype)
        label = np.full(block.shape, bottom + 1, dtype)
        for k in undecided.tolist():
            label[block.values(k) > 0] = k + 1
        return label

    def plain(chunk: _Chunk, out: torch.Tensor) -> None:
        out.zero_()
        for start, values in chunk.classes():
            for i, value in enumerate(values, start=start + 1):
                out.masked_fill_(value > 0, i)

    return _make(low_czyx, positions_zyx, dtype, make, plain, chunk_bytes)


# ---------------------------------------------------------------- candidate classes


def _argmax_candidates(block: Block, high: Float, low: Float) -> list[int]:
    """The classes that may be the largest somewhere in a block, from their largest and smallest corners [C]."""
    upper_bound = high + _margin(high, low)
    candidates: list[int] = np.flatnonzero(
        upper_bound >= _best_lower_bound(block, high, low)
    ).tolist()
    return candidates


def _softmax_candidates(block: Block, high: Float, low: Float, scale: float) -> list[int]:
    """The classes that a softmax of scaled logits needs; the probabilities of the others sum to below NEGLIGIBLE."""
    probability = np.exp(
        np.minimum(scale * (high.astype(np.float64) - _best_lower_bound(block, high, low)), 0.0)
    )
    order = np.argsort(probability, kind="stable")
    candidates: list[int] = np.sort(order[np.cumsum(probability[order]) > NEGLIGIBLE]).tolist()
    return candidates


def _best_lower_bound(block: Block, high: Float, low: Float) -> float:
    """A lower bound of the largest class, everywhere in a block."""
    margin = _margin(high, low)
    bound = float((low - margin).max())
    candidates = np.flatnonzero(high + margin >= bound)
    if len(candidates) > MANY_CANDIDATES:
        top = candidates[np.argsort(high[candidates], kind="stable")[-TOP_CANDIDATES:]]
        tighter = blocks.lower_bound(block, top.tolist()) - 2 * float(margin[top].max())
        bound = max(bound, tighter)
    return bound


def _margin(high: Float, low: Float) -> Float:
    """A bound on how far rounding carries interpolated values beyond their corners."""
    out: Float = np.float32(blocks.ROUNDING) * np.maximum(np.abs(high), np.abs(low))
    return out


# ---------------------------------------------------------------- blocks (CPU) and chunks (other devices)


class _Chunk:
    """Some planes of positions, interpolated one or several classes at a time."""

    def __init__(
        self, low_czyx: torch.Tensor, taps_zyx: Sequence[Taps], planes: slice, together: int
    ) -> None:
        z, y, x = taps_zyx
        self.low, self.together = low_czyx, together
        self.taps = (Taps(z.index[planes], z.weight[planes]), y, x)

    def classes(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (first class, values [c, n_z, n_y, n_x]) for as many classes at a time as fit."""
        for start in range(0, len(self.low), self.together):
            yield start, _lerp_all(self.low[start : start + self.together], self.taps)


@torch.no_grad()
def _make(
    low_czyx: torch.Tensor,
    positions_zyx: Positions,
    dtype: np.dtype[np.generic],
    make: blocks.Fill,
    plain: Callable[[_Chunk, torch.Tensor], None],
    chunk_bytes: int,
) -> torch.Tensor:
    taps_zyx = _taps(low_czyx, positions_zyx)
    low_czyx = low_czyx.detach()
    kind: torch.dtype = getattr(torch, dtype.name)
    out = torch.empty(_shape(taps_zyx), dtype=kind, device=low_czyx.device)
    if low_czyx.device.type == "cpu":
        blocks.fill(low_czyx, taps_zyx, out.numpy(), make, torch.get_num_threads())
    else:
        blocks.check_finite(float(low_czyx.amax()))
        _by_chunks(low_czyx, taps_zyx, out, plain, chunk_bytes)
    return out


def _by_chunks(
    low_czyx: torch.Tensor,
    taps_zyx: Sequence[Taps],
    out_zyx: torch.Tensor,
    plain: Callable[[_Chunk, torch.Tensor], None],
    chunk_bytes: int,
) -> None:
    """Process planes of all classes if they fit in memory, else one plane of some classes at a time."""
    plane = 4 * max(1, math.prod(out_zyx.shape[1:]), math.prod(low_czyx.shape[2:]))
    fit = max(1, chunk_bytes // (4 * plane))  # the values, two taps and their product
    planes = max(1, fit // len(low_czyx))
    for start in range(0, len(out_zyx), planes):
        part = slice(start, start + planes)
        plain(_Chunk(low_czyx, taps_zyx, part, min(fit, len(low_czyx))), out_zyx[part])


def _lerp_all(low_czyx: torch.Tensor, taps_zyx: Sequence[Taps]) -> torch.Tensor:
    """Interpolated values of all classes [C, n_z, n_y, n_x], rounded as in the blocks of the CPU."""
    out, device = low_czyx, low_czyx.device
    for axis in (1, 3, 2):
        taps, last = taps_zyx[axis - 1], out.shape[axis] - 1
        index = torch.from_numpy(taps.index).to(device)
        before = out.index_select(axis, index).float()
        after = out.index_select(axis, (index + 1).clamp_(max=last)).float()
        shape = [-1 if a == axis else 1 for a in range(4)]
        weight = torch.from_numpy(taps.weight).to(device).view(shape)
        # one operation at a time, since a fused one would round differently from the CPU
        out = after.sub_(before).mul_(weight).add_(before)
    return out


def _taps(low_czyx: torch.Tensor, positions_zyx: Positions) -> list[Taps]:
    if low_czyx.ndim != 4 or not low_czyx.numel() or not low_czyx.is_floating_point():
        raise BadInput(
            f"Logits to interpolate are floating-point [C, Z, Y, X], not {low_czyx.dtype} of shape "
            f"{list(low_czyx.shape)}."
        )
    for axis, positions in zip("zyx", positions_zyx, strict=True):
        if np.ndim(positions) != 1 or not np.isfinite(positions).all():
            raise BadInput(f"Positions along {axis} must be a list of finite numbers, in voxels.")
    pairs = zip(positions_zyx, low_czyx.shape[1:], strict=True)
    return [taps_at(positions, n) for positions, n in pairs]


def _shape(taps_zyx: Sequence[Taps]) -> tuple[int, int, int]:
    z, y, x = (len(taps.index) for taps in taps_zyx)
    return z, y, x


def _dtype(highest: int) -> np.dtype[np.generic]:
    """The smallest integer type of torch that holds the label."""
    return np.dtype(np.uint8 if highest < 2**8 else np.int16 if highest < 2**15 else np.int32)
