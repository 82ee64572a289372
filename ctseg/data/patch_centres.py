"""Places to centre patches on: some voxels of each label, drawn evenly in one pass over a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.specs import Task
from ctseg.volume.distinct_values import slabs

PLACES = 10_000
"""At most this many voxels of each label are kept; drawn with a fixed seed."""
VALID, BACKGROUND = -1, 0
"""Groups of places beside the labels, whose groups are 1, 2, ...: any voxel that is not ignored (kept only where
some are), and voxels of no label."""

_EXACT = 10**9
"""NumPy draws hypergeometric numbers up to this population; beyond it the binomial distribution is the same."""


def patch_centres(task: Task, target_czyx: NDArray[Any]) -> NDArray[np.int32]:
    """Up to `PLACES` voxels of each group, int32 [N, 4] of (group, z, y, x), ordered by group."""
    collector = CentreCollector(task)
    for part in slabs(target_czyx.shape[1:]):
        collector.add(target_czyx[:, part], part.start)
    return collector.result()


class CentreCollector:
    """Collects places slab by slab, each voxel of a group with equal probability (reservoir sampling).

    Args:
        task: says what the target's numbers mean.
        limit: voxels kept of each group.
    """

    def __init__(self, task: Task, limit: int = PLACES) -> None:
        self.task, self.limit = task, limit
        self._rng = np.random.default_rng(0)
        self._kept: dict[int, NDArray[np.int32]] = {}
        self._seen: dict[int, int] = {}
        self._ignored = False

    def add(self, target_czyx: NDArray[Any], start: int) -> None:
        """Look at some slices.

        Args:
            target_czyx: as `ctseg.task.encode` makes it, with its channel axis.
            start: the first of its slices in the whole target.
        """
        shape = target_czyx.shape[1:]
        if self.task.kind == "regression":
            valid = np.isfinite(target_czyx).all(0).ravel()
            self._mask(BACKGROUND, valid, shape, start)
            self._valid(valid, shape, start)
            return
        if self.task.kind == "channels":
            for index, channel in enumerate(target_czyx):
                self._mask(index + 1, (channel == 1).ravel(), shape, start)
            self._mask(BACKGROUND, (target_czyx == 0).all(0).ravel(), shape, start)
            self._valid((target_czyx >= 0).all(0).ravel(), shape, start)
            return
        if not any(target_czyx.strides) or not target_czyx.any():  # most slabs of a large scan
            count = math.prod(shape)
            self._take(BACKGROUND, count, lambda chosen: chosen, shape, start)
            self._take(VALID, count, lambda chosen: chosen, shape, start)
            return
        flat = target_czyx[0].ravel()
        inside = np.flatnonzero(flat > 0)
        labels = flat[inside]
        order = np.argsort(labels, kind="stable")
        found, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
        for label, begin, count in zip(found, first, counts, strict=True):
            own = inside[order[begin : begin + count]]
            self._take(int(label), own.size, own.__getitem__, shape, start)
        self._mask(BACKGROUND, flat == 0, shape, start)
        self._valid(flat >= 0, shape, start)

    def _mask(self, group: int, mask: NDArray[np.bool_], shape: Any, start: int) -> None:
        own = np.flatnonzero(mask)
        self._take(group, own.size, own.__getitem__, shape, start)

    def _valid(self, valid: NDArray[np.bool_], shape: Any, start: int) -> None:
        self._ignored = self._ignored or not valid.all()
        self._mask(VALID, valid, shape, start)

    def _take(
        self,
        group: int,
        count: int,
        at: Callable[[NDArray[np.int64]], NDArray[np.int64]],
        shape: tuple[int, int, int],
        start: int,
    ) -> None:
        """Let `count` new voxels into the reservoir of a group; `at` gives the flat index of the chosen ones."""
        if not count:
            return
        seen = self._seen.get(group, 0)
        old = self._kept.get(group, np.zeros((0, 3), np.int32))
        self._seen[group] = seen + count
        new = count
        if seen + count > self.limit:
            if seen + count < _EXACT:
                new = int(self._rng.hypergeometric(count, seen, self.limit))
            else:
                new = min(int(self._rng.binomial(self.limit, count / (seen + count))), count)
            stay = min(self.limit - new, len(old))
            old = old[np.sort(self._rng.choice(len(old), stay, replace=False))]
        if not new:
            self._kept[group] = old
            return
        some = new < count
        chosen = np.sort(self._rng.choice(count, new, replace=False)) if some else np.arange(count)
        zyx = np.stack(np.unravel_index(at(chosen), shape), 1)
        zyx[:, 0] += start
        self._kept[group] = np.concatenate([old, zyx.astype(np.int32)])

    def result(self) -> NDArray[np.int32]:
        """int32 [N, 4] of (group, z, y, x), ordered by group."""
        parts = [np.zeros((0, 4), np.int32)]
        for group in sorted(self._kept):
            if group == VALID and not self._ignored:
                continue
            zyx = self._kept[group]
            parts.append(np.concatenate([np.full((len(zyx), 1), group, np.int32), zyx], 1))
        return np.concatenate(parts).astype(np.int32)
