"""What happens to one sample: drawn on the CPU, all of it for every sample, and applied elsewhere.

Everything is a function of one vector of uniform numbers, whose places never change: switching a transform off, or
adding one at the end, leaves all others as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctseg.config.augment import AugmentConfig
from ctseg.data.augment.extra import DrawnTransform, draw_extra

Zyx = tuple[int, int, int]
Turn = tuple[tuple[int, int, int], tuple[int, ...]]
AXES = "zyx"
NUMBERS = 160
"""Uniform numbers drawn for a sample; some are spare."""


@dataclass(frozen=True)
class AugmentParameters:
    """What was drawn for one sample; what does not happen has the value in brackets.

    Attributes:
        affine: [3, 3], rotation and zoom in mm z, y, x, from the output to the input [None].
        turn: by multiples of 90 degrees: the input axis of each output axis, and the output axes that run backwards
            [((0, 1, 2), ())].
        mirror: axes 0..2 that flip [()].
        elastic_mm: largest displacement [0].
        elastic_points: control points along the longest side.
        noise: deviation [0].
        blur: sigma in voxels [0].
        brightness, contrast: factors [1].
        low_resolution: share of voxels that z, y, x keep [(1, 1, 1)].
        gamma, gamma_inverted: exponents [1].
        shift: HU, or hundredths of a deviation [0].
        cut_out: boxes of (centre, size), each as shares of the patch [()].
        seed: of fields of numbers: noise and displacements.
        extra: transforms of `[augment.extra]` [()].
    """

    affine: NDArray[np.float64] | None
    turn: Turn
    mirror: tuple[int, ...]
    elastic_mm: float
    elastic_points: int
    noise: float
    blur: float
    brightness: float
    contrast: float
    low_resolution: tuple[float, float, float]
    gamma: float
    gamma_inverted: float
    shift: float
    cut_out: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    seed: int
    extra: tuple[DrawnTransform, ...] = ()


STAYS: Turn = ((0, 1, 2), ())


def draw_parameters(
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    spacing_zyx: Sequence[float] = (1.0, 1.0, 1.0),
) -> AugmentParameters:
    """The transforms of one sample.

    Args:
        config: resolved.
        rng: keyed by seed, step and sample.
        spacing_zyx: 90-degree turns need two axes of equal spacing; where they differ, only 180 degrees are left.
    """
    seed = int(rng.integers(2**63 - 1))
    u = rng.random(NUMBERS)
    c: Any = config
    angles = [
        (2 * x - 1) * math.radians(a) for x, a in zip(u[20:23], c.rotation_degrees, strict=True)
    ]
    rotate, zooms = u[0] < c.rotation, u[1] < c.scale
    matrix = rotation(angles) if rotate else np.eye(3)
    if zooms:
        low, high = (math.log(v) for v in c.scale_range)
        zoom = math.exp(low + (high - low) * u[23])
        matrix = matrix / np.array([1.0 if c.in_plane else zoom, zoom, zoom])[None, :]
    keep = between(u[33], c.low_resolution_range) if u[8] < c.low_resolution else 1.0
    low_resolution = (1.0 if c.in_plane else keep, keep, keep)
    return AugmentParameters(
        affine=matrix if rotate or zooms else None,
        turn=_turn(c, u, spacing_zyx) if u[2] < c.turns else STAYS,
        mirror=tuple(a for a in range(3) if u[24 + a] < 0.5 and AXES[a] in c.mirror_axes),
        elastic_mm=c.elastic_mm if u[3] < c.elastic else 0.0,
        elastic_points=c.elastic_points,
        noise=between(u[29], c.noise_variance) ** 0.5 if u[4] < c.noise else 0.0,
        blur=between(u[30], c.blur_sigma) if u[5] < c.blur else 0.0,
        brightness=about_one(u[31], c.brightness_range) if u[6] < c.brightness else 1.0,
        contrast=about_one(u[32], c.contrast_range) if u[7] < c.contrast else 1.0,
        low_resolution=low_resolution,
        gamma=about_one(u[34], c.gamma_range) if u[9] < c.gamma else 1.0,
        gamma_inverted=about_one(u[35], c.gamma_range) if u[10] < c.gamma_inverted else 1.0,
        shift=between(u[36], c.shift_range) if u[11] < c.shift else 0.0,
        cut_out=_boxes(c, u) if u[12] < c.cut_out else (),
        seed=seed,
        extra=draw_extra(config, seed, spacing_zyx),
    )


def between(share: float, ends: Sequence[float]) -> float:
    """A share of 0..1 mapped onto a range."""
    return float(ends[0] + (ends[1] - ends[0]) * share)


def about_one(share: float, ends: Sequence[float]) -> float:
    """A factor: as often below 1 as above, where the range holds 1 (as nnU-Net draws them)."""
    low, high = ends
    if not low < 1 < high:
        return between(share, ends)
    return between(2 * share, (low, 1.0)) if share < 0.5 else between(2 * share - 1, (1.0, high))


def rotation(angles_zyx: Sequence[float]) -> NDArray[np.float64]:
    """Rotation about z, then y, then x, acting on (z, y, x)."""
    out = np.eye(3)
    for axis, angle in enumerate(angles_zyx):
        one, two = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[one, one] = turn[two, two] = math.cos(angle)
        turn[one, two], turn[two, one] = -math.sin(angle), math.sin(angle)
        out = turn @ out
    return out


def quarter(axis: int, times: int) -> Turn:
    """`times` quarter turns about an axis, as `np.rot90` over the other two in their order."""
    one, two = (a for a in range(3) if a != axis)
    times %= 4
    axes = [0, 1, 2]
    if times % 2:
        axes[one], axes[two] = two, one
    flips = {0: (), 1: (one,), 2: (one, two), 3: (two,)}[times]
    return (axes[0], axes[1], axes[2]), flips


def _turn(c: Any, u: NDArray[np.float64], spacing_zyx: Sequence[float]) -> Turn:
    if not c.turn_axes:
        return STAYS
    axis = AXES.index(c.turn_axes[min(int(u[27] * len(c.turn_axes)), len(c.turn_axes) - 1)])
    one, two = (spacing_zyx[a] for a in range(3) if a != axis)
    alike = abs(one - two) <= 1e-3 * max(one, two)
    return quarter(axis, 1 + int(u[28] * 3) if alike else 2)


def _boxes(
    c: Any, u: NDArray[np.float64]
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
    """Up to so many boxes; their numbers stand from place 38 on, six each."""
    count = 1 + min(int(u[37] * c.cut_out_boxes), c.cut_out_boxes - 1)
    out = []
    for own in u[38 : 38 + 6 * min(count, (NUMBERS - 38) // 6)].reshape(-1, 6):
        size = tuple(between(share, c.cut_out_size) for share in own[3:])
        out.append((tuple(float(v) for v in own[:3]), size))
    return tuple(out)
