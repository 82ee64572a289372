"""Batches without augmentation, made sample by sample: what a loader without transforms must give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.data.prepared_case import Prepared
from ctseg.data.rng import SAMPLE, generator
from ctseg.data.sampling import Rule, draw, patch

Zyx = tuple[int, int, int]


def batch(
    cases: Sequence[Prepared],
    patch_zyx: Zyx,
    *,
    size: int,
    rule: Rule | float,
    seed: int,
    step: int,
    margin_zyx: Zyx = (0, 0, 0),
) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32] | None]:
    """The batch of one step, the same for the same seed and step.

    Args:
        rule: how patches are drawn, or the share of them centred on a label.
        margin_zyx: voxels cut beyond the patch on each side, for rotations to draw from.

    Returns:
        images [B, C, *(patch + 2 margin)], targets [B, C or 1, ...], -1 (NaN) outside the scan, and weights
        [B, 1, ...] where any case has a weight map (1 where a case has none), else None.
    """
    z, y, x = (p + 2 * m for p, m in zip(patch_zyx, margin_zyx, strict=True))
    images, targets, weights = [], [], []
    weighted = any(case.weight is not None for case in cases)
    for index in range(size):
        place = draw(cases, patch_zyx, rule, generator(seed, step, index, SAMPLE))
        first = tuple(s - m for s, m in zip(place.start_zyx, margin_zyx, strict=True))
        image, target, weight = patch(cases[place.case], (first[0], first[1], first[2]), (z, y, x))
        images.append(image)
        targets.append(target)
        if weighted:
            weights.append(np.ones((1, z, y, x), np.float32) if weight is None else weight)
    return np.stack(images), np.stack(targets), np.stack(weights) if weighted else None
