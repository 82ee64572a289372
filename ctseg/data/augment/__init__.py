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
from ctseg.data.augment.patch_transform import PatchTransform
from ctseg.data.augment.sides import Sides, exchanged
from ctseg.data.augment.smoothing import blur
from ctseg.data.augment.spatial import move

__all__ = [
    "AugmentParameters",
    "centre",
    "change_sample",
    "change_values",
    "draw_parameters",
    "margin",
    "move_sample",
    "rotation",
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


def move_sample(path: PatchTransform, image: Pair, target: Pair, maps: Pair | None = None) -> None:
    """Move one sample to its place in one resampling.

    Args:
        path: through its boxes.
        image, target, maps: each a box [C, *path.size] and the patch [C, *patch] to be filled; maps are weights.
    """
    patch_zyx = image[1].shape[-3], image[1].shape[-2], image[1].shape[-1]
    linear = [image] if maps is None else [image, maps]
    if target[0].is_floating_point():
        move(path, patch_zyx, linear=[*linear, target])
    else:
        move(path, patch_zyx, linear=linear, nearest=[target])


def change_sample(
    image: torch.Tensor,
    target: torch.Tensor,
    drawn: AugmentParameters,
    *,
    sides: Sides,
    lateral: int,
    units: Sequence[float],
) -> None:
    """Do to one moved sample, in place, what was drawn for its values.

    Args:
        image, target: patches [C, Z, Y, X].
        sides: labels that change places where `lateral` flips.
        lateral: the axis 0..2 between left and right.
        units: what one HU is in the image, a number a channel or one for all.
    """
    if exchanged(drawn, lateral):
        target.copy_(sides.swap(target))
    change_values(image, drawn, units)
    for extra in drawn.extra:
        extra.apply(image, target)


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
