"""Random transforms of a batch on its device.

Parameters are drawn on the CPU from the generator keyed by (seed, step, sample), all of them for every sample, so
that turning one transform off leaves the others as they were. Image, target and maps move in one resampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ctseg.config.augment import AugmentConfig
from ctseg.data.augment.erasing import cut_out
from ctseg.data.augment.intensity import (
    add_noise,
    add_shift,
    gamma,
    scale_brightness,
    scale_contrast,
)
from ctseg.data.augment.low_resolution import low_resolution
from ctseg.data.augment.parameters import AugmentParameters, draw_parameters, rotation
from ctseg.data.augment.patch_transform import PatchTransform, patch_transform, take
from ctseg.data.augment.sides import Sides, exchanged
from ctseg.data.augment.smoothing import blur
from ctseg.data.augment.spatial import move
from ctseg.data.rng import AUGMENT, generator

__all__ = [
    "AugmentParameters",
    "augment",
    "centre",
    "change_values",
    "draw_parameters",
    "margin",
    "rotation",
    "transform",
]

Zyx = tuple[int, int, int]
Pair = tuple[torch.Tensor, torch.Tensor]


def margin(config: AugmentConfig, patch_zyx: Zyx) -> Zyx:
    """Voxels beyond the patch on each side that a batch for `augment` should have for rotations and zooms.

    Half of what the worst case reaches: corners of the worst case are filled by reflection.
    """
    c = config.resolved(patch_zyx)
    assert c.rotation_degrees is not None
    assert c.scale_range is not None
    if not c.rotation and not c.scale:
        return (0, 0, 0)
    half = np.asarray(patch_zyx) / 2
    angles = [math.radians(a) for a in c.rotation_degrees] if c.rotation else [0.0, 0.0, 0.0]
    reach = np.abs(rotation(angles)) @ half / (c.scale_range[0] if c.scale else 1.0)
    extra = np.ceil(np.maximum(reach - half, 0) / 2).astype(int)
    return int(extra[0]), int(extra[1]), int(extra[2])


def augment(
    image: torch.Tensor,
    target: torch.Tensor,
    config: AugmentConfig,
    patch_zyx: Zyx,
    *,
    seed: int,
    step: int,
    spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0),
    first_index: int = 0,
    maps: int = 0,
    sides: Sides | None = None,
    lateral: int = 2,
    units: Sequence[float] = (1.0,),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a batch.

    Args:
        image: float [B, C, Z, Y, X], the patch with its margin.
        target: [B, T, Z, Y, X] likewise: integers, -1 where ignored, or floats, NaN where ignored.
        patch_zyx: shape of the result; the centre is kept.
        spacing_zyx: rotations turn millimetres, not voxels.
        first_index: index of the first sample in the global batch.
        maps: how many of the last channels of `image` are maps (weights) that move but keep their values.
        sides: labels that change places where `lateral` flips; None for none.
        lateral: the axis 0..2 between left and right.
        units: what one HU is in the image, a number a channel or one for all.

    Returns:
        image [B, C, *patch] and target [B, T, *patch].
    """
    config = config.resolved(patch_zyx)
    count, channels = image.shape[:2]
    images = image.new_empty((count, channels, *patch_zyx))
    targets = target.new_empty((count, target.shape[1], *patch_zyx))
    offset = [(w - p) // 2 for w, p in zip(image.shape[2:], patch_zyx, strict=True)]
    outside = float("nan") if target.is_floating_point() else -1
    for i in range(count):
        rng = generator(seed, step, first_index + i, AUGMENT)
        drawn = draw_parameters(config, rng, spacing_zyx=spacing_zyx)
        path = patch_transform(drawn, patch_zyx, spacing_zyx, in_plane=bool(config.in_plane))
        start = [o + s for o, s in zip(offset, path.start, strict=True)]
        box, scans = take(image[i], start, path.size, None), channels - maps
        transform(
            drawn, path, patch_zyx, (box[:scans], images[i, :scans]),
            (take(target[i], start, path.size, outside), targets[i]),
            (box[scans:], images[i, scans:]) if maps else None,
            sides=sides, lateral=lateral, units=units,
        )  # fmt: skip
    return images, targets


def transform(
    drawn: AugmentParameters,
    path: PatchTransform,
    patch_zyx: Zyx,
    image: Pair,
    target: Pair,
    maps: Pair | None = None,
    *,
    sides: Sides | None,
    lateral: int,
    units: Sequence[float],
) -> None:
    """Do to one sample what was drawn for it.

    Args:
        path: through its boxes.
        image, target, maps: each a box [C, *path.size] and the patch [C, *patch] to be filled; maps (weights) move but
            keep their values.
        sides, lateral, units: as for `augment`.
    """
    linear = [image] if maps is None else [image, maps]
    if target[0].is_floating_point():
        move(path, patch_zyx, linear=[*linear, target])
    else:
        move(path, patch_zyx, linear=linear, nearest=[target])
    if sides is not None and exchanged(drawn, lateral):
        target[1].copy_(sides.swap(target[1]))
    change_values(image[1], drawn, units)
    for extra in drawn.extra:
        extra.apply(image[1], target[1])


def centre(x: torch.Tensor, patch_zyx: Zyx) -> torch.Tensor:
    """The centre of [..., Z, Y, X]."""
    for axis, size in zip((-3, -2, -1), patch_zyx, strict=True):
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x


def change_values(
    x: torch.Tensor, drawn: AugmentParameters, units: Sequence[float] = (1.0,)
) -> None:
    """Do to one image [C, Z, Y, X], in place, what was drawn for its values.

    Args:
        units: what one HU is in the image, a number a channel or one for all.
    """
    if drawn.noise:
        add_noise(x, drawn.noise, drawn.seed)
    if drawn.blur:
        x.copy_(blur(x, drawn.blur))
    if drawn.brightness != 1:
        scale_brightness(x, drawn.brightness)
    if drawn.contrast != 1:
        scale_contrast(x, drawn.contrast)
    if min(drawn.low_resolution) < 1:
        x.copy_(low_resolution(x, drawn.low_resolution))
    if drawn.gamma_inverted != 1:
        gamma(x, drawn.gamma_inverted, inverted=True)
    if drawn.gamma != 1:
        gamma(x, drawn.gamma)
    if drawn.shift:
        each = units if len(units) == len(x) else [units[0]] * len(x)
        add_shift(x, [drawn.shift * unit for unit in each])
    if drawn.cut_out:
        cut_out(x, drawn.cut_out)
