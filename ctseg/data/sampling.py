"""Patches: where they are drawn, and how they are cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data import keyed
from ctseg.data.prepare import Prepared

Zyx = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """Where one patch is cut: the case's index in the list, and the first voxel, which may lie outside."""

    case: int
    start_zyx: Zyx


def draw(
    cases: Sequence[Prepared], patch_zyx: Zyx, foreground: float, rng: np.random.Generator
) -> Place:
    """Draw one patch: a case, then with probability `foreground` one of its labels and a voxel of it as centre.

    Labels are drawn with equal probability, however few voxels they have. Other patches lie anywhere in the scan.
    A patch stays inside the scan where the scan is large enough, else the scan is centred in it.
    """
    index = int(rng.integers(len(cases)))
    case = cases[index]
    shape = case.image.shape[1:]
    if rng.random() < foreground and len(case.places):
        labels = np.unique(case.places[:, 0])
        label = labels[rng.integers(len(labels))]
        own = case.places[case.places[:, 0] == label]
        centre = own[rng.integers(len(own)), 1:]
        start = [int(c) - p // 2 for c, p in zip(centre, patch_zyx, strict=True)]
    else:
        start = [
            int(rng.integers(max(n - p, 0) + 1)) for n, p in zip(shape, patch_zyx, strict=True)
        ]
    z, y, x = (
        min(max(s, 0), n - p) if n >= p else -((p - n) // 2)
        for s, n, p in zip(start, shape, patch_zyx, strict=True)
    )
    return Place(index, (z, y, x))


def cut(
    array_czyx: NDArray[Any], start_zyx: Zyx, patch_zyx: Zyx, outside: int | None
) -> NDArray[Any]:
    """The patch [C, *patch], which may reach beyond the array.

    Args:
        outside: the value out there; None reflects the array at its border.
    """
    index = [np.arange(s, s + p) for s, p in zip(start_zyx, patch_zyx, strict=True)]
    shape = array_czyx.shape[1:]
    if all(i[0] >= 0 and i[-1] < n for i, n in zip(index, shape, strict=True)):
        box = tuple(slice(int(i[0]), int(i[-1]) + 1) for i in index)
        return np.array(array_czyx[(slice(None), *box)])
    if outside is None:
        inside = [reflect(i, n) for i, n in zip(index, shape, strict=True)]
        z, y, x = np.ix_(*inside)
        return np.array(array_czyx[:, z, y, x])
    out = np.full((array_czyx.shape[0], *patch_zyx), outside, array_czyx.dtype)
    to: list[slice] = []
    source: list[slice] = []
    for i, n in zip(index, shape, strict=True):
        low, high = max(int(i[0]), 0), min(int(i[-1]) + 1, n)
        to.append(slice(low - int(i[0]), max(high, low) - int(i[0])))
        source.append(slice(low, max(high, low)))
    out[(slice(None), *to)] = array_czyx[(slice(None), *source)]
    return out


def reflect(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices reflected into 0..size-1 at the centres of the outer voxels; an axis of one voxel repeats it."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    folded = np.abs(index) % period
    out: NDArray[np.int64] = np.minimum(folded, period - folded)
    return out


def batch(
    cases: Sequence[Prepared],
    patch_zyx: Zyx,
    *,
    size: int,
    foreground: float,
    seed: int,
    step: int,
    margin_zyx: Zyx = (0, 0, 0),
) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32] | None]:
    """The batch of one step, the same for the same seed and step.

    Args:
        margin_zyx: voxels cut beyond the patch on each side, for rotations to draw from.

    Returns:
        images [B, C, *(patch + 2 margin)], targets [B, C or 1, ...], -1 outside the scan, and weights [B, 1, ...]
        where any case has a weight map (1 where a case has none), else None.
    """
    wide = tuple(p + 2 * m for p, m in zip(patch_zyx, margin_zyx, strict=True))
    images, targets, weights = [], [], []
    weighted = any(case.weight is not None for case in cases)
    for index in range(size):
        place = draw(cases, patch_zyx, foreground, keyed.generator(seed, step, index, keyed.SAMPLE))
        case = cases[place.case]
        z, y, x = (s - m for s, m in zip(place.start_zyx, margin_zyx, strict=True))
        size_zyx = (wide[0], wide[1], wide[2])
        images.append(cut(case.image, (z, y, x), size_zyx, None))
        targets.append(cut(case.target, (z, y, x), size_zyx, -1))
        if weighted:
            weight = np.ones((1, *size_zyx), np.float32)
            if case.weight is not None:
                weight = cut(case.weight, (z, y, x), size_zyx, None)
            weights.append(weight)
    return np.stack(images), np.stack(targets), np.stack(weights) if weighted else None
