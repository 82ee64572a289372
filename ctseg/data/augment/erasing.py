"""Cut-out: boxes filled with the channel's mean (DeVries and Taylor 2017)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ctseg.data.augment.intensity import mean


def cut_out(x: torch.Tensor, boxes: Iterable[tuple[Sequence[float], Sequence[float]]]) -> None:
    """Fill boxes of [C, Z, Y, X] with each channel's mean, in place.

    Args:
        boxes: centre and size as shares of the image, z, y, x.
    """
    filling = mean(x).view(-1, 1, 1, 1)
    for centre, size in boxes:
        part = x
        for axis, (middle, side) in enumerate(zip(centre, size, strict=True), start=1):
            n = x.shape[axis]
            length = max(1, round(side * n))
            first = round(middle * n - length / 2)
            last = min(first + length, n)
            first = max(first, 0)
            part = part.narrow(axis, min(first, n), max(last - first, 0))
        part.copy_(filling.expand_as(part))
