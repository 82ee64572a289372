"""Boxes that tile a volume, each with a halo."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from ctseg.specs import Zyx

LEAST_EDGE = 16


@dataclass(frozen=True)
class Block:
    """A block of a volume.

    Attributes:
        start, stop: the block itself; blocks tile the volume.
        outer_start, outer_stop: the block and its halo, cut at the border of the volume.
    """

    start: Zyx
    stop: Zyx
    outer_start: Zyx
    outer_stop: Zyx

    @property
    def inner(self) -> tuple[slice, slice, slice]:
        """The block within its halo."""
        z, y, x = (
            slice(a - o, b - o)
            for a, b, o in zip(self.start, self.stop, self.outer_start, strict=True)
        )
        return z, y, x


def edge_for(memory: int, voxel_bytes: int, halo: int) -> int:
    """Edge of a block that, with its halo, takes about `memory` bytes; never less than `LEAST_EDGE`."""
    return max(LEAST_EDGE, int((memory / voxel_bytes) ** (1 / 3)) - 2 * halo)


def least_bytes(shape: Zyx, voxel_bytes: int, halo: Zyx) -> int:
    """Bytes of the smallest block, which `edge_for` chooses where a halo leaves no room for a larger one."""
    sizes = (min(n, LEAST_EDGE + 2 * h) for n, h in zip(shape, halo, strict=True))
    return math.prod(sizes) * voxel_bytes


def blocks(shape: Zyx, edge: int, before: Zyx, after: Zyx | None = None) -> Iterator[Block]:
    """Blocks of at most an edge, as equal as can be, in order z, y, x, with a halo before and after them."""
    after = before if after is None else after
    edges = [-(-n // -(-n // edge)) for n in shape]
    for corner in itertools.product(*(range(0, n, e) for n, e in zip(shape, edges, strict=True))):
        end = tuple(min(a + e, n) for a, e, n in zip(corner, edges, shape, strict=True))
        low = tuple(max(0, a - h) for a, h in zip(corner, before, strict=True))
        high = tuple(min(n, b + h) for b, h, n in zip(end, after, shape, strict=True))
        yield Block(corner, end, low, high)  # type: ignore[arg-type]
