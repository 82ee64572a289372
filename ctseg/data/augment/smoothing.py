"""Gaussian blur, one axis after the other."""

from __future__ import annotations

import math

import torch


def blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of [C, Z, Y, X], cut at three sigma (in voxels); edges repeat."""
    radius = max(1, math.ceil(3 * sigma))
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in (1, 2, 3):
        n = x.shape[axis]
        if n == 1:
            continue
        wide = torch.cat([_edge(x, axis, 0, radius), x, _edge(x, axis, n - 1, radius)], axis)
        x = wide.narrow(axis, radius, n) * (weights[0] / total)
        for k in range(1, radius + 1):
            for first in (radius - k, radius + k):
                x.add_(wide.narrow(axis, first, n), alpha=weights[k] / total)
    return x


def _edge(x: torch.Tensor, axis: int, index: int, times: int) -> torch.Tensor:
    """One slice, repeated along its axis."""
    shape = list(x.shape)
    shape[axis] = times
    return x.narrow(axis, index, 1).expand(shape)
