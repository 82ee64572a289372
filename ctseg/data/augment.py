"""Random transforms of a batch on its device.

Parameters are drawn on the CPU from the generator keyed by (seed, step, sample), all of them for every sample, so
that turning one transform off leaves the others as they were. Image and target move in one resampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ctseg.config import AugmentConfig
from ctseg.data import keyed

AXES = "zyx"
Zyx = tuple[int, int, int]


@dataclass(frozen=True)
class Draw:
    """What was drawn for one sample; None or 0 where a transform does not happen.

    Attributes:
        affine: [3, 3] in voxels z, y, x, from the output to the input patch.
        mirror: axes that flip, 0..2.
        noise: deviation of additive Gaussian noise.
        blur: sigma in voxels.
        brightness, contrast: factors.
        gamma: exponent; negative where the inverted image is raised to it.
        low_resolution: zoom factor under 1.
        seed: for the noise field.
    """

    affine: NDArray[np.float64] | None
    mirror: tuple[int, ...]
    noise: float
    blur: float
    brightness: float
    contrast: float
    gamma: float
    low_resolution: float
    seed: int


def draw(config: AugmentConfig, rng: np.random.Generator) -> Draw:
    """The transforms of one sample, in the ranges of nnU-Net's default set (Isensee et al. 2021, supplement 4)."""
    happens = dict(zip(
        ("rotation", "scale", "noise", "blur", "brightness", "contrast", "gamma", "invert", "low"),
        rng.random(9), strict=True,
    ))  # fmt: skip
    angles = [rng.uniform(-a, a) * math.pi / 180 for a in config.rotation_degrees]
    low, high = config.scale_range
    zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
    flips = rng.random(3) < 0.5
    noise, blur = rng.uniform(0, 0.1) ** 0.5, rng.uniform(0.5, 1.0)
    brightness, contrast = rng.uniform(0.75, 1.25, 2)
    gamma, low_resolution = rng.uniform(0.7, 1.5), rng.uniform(0.5, 1.0)
    seed = int(rng.integers(2**63 - 1))
    if config.preset == "none":
        return Draw(None, (), 0, 0, 1, 1, 0, 1, seed)
    rotate, scale = happens["rotation"] < config.rotation, happens["scale"] < config.scale
    matrix = np.eye(3)
    if rotate:
        matrix = rotation(angles)
    if scale:
        matrix = matrix / zoom
    has_gamma = happens["gamma"] < config.gamma
    return Draw(
        affine=matrix if rotate or scale else None,
        mirror=tuple(a for a in range(3) if flips[a] and AXES[a] in config.mirror_axes),
        noise=noise if happens["noise"] < config.noise else 0.0,
        blur=blur if happens["blur"] < config.blur else 0.0,
        brightness=brightness if happens["brightness"] < config.brightness else 1.0,
        contrast=contrast if happens["contrast"] < config.contrast else 1.0,
        gamma=(gamma if happens["invert"] < 0.75 else -gamma) if has_gamma else 0.0,
        low_resolution=low_resolution if happens["low"] < config.low_resolution else 1.0,
        seed=seed,
    )


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


def margin(config: AugmentConfig, patch_zyx: Zyx) -> Zyx:
    """Voxels beyond the patch on each side that rotations and scalings should have to draw from.

    Half of what the worst case reaches: corners of the worst case are filled by reflection.
    """
    if config.preset == "none" or (config.rotation == 0 and config.scale == 0):
        return (0, 0, 0)
    half = np.asarray(patch_zyx) / 2
    angles = [a * math.pi / 180 for a in config.rotation_degrees] if config.rotation else [0, 0, 0]
    reach = np.abs(rotation(angles)) @ half / (config.scale_range[0] if config.scale else 1.0)
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a batch.

    Args:
        image: float [B, C, Z, Y, X], the patch with its margin.
        target: integer [B, T, Z, Y, X] likewise, -1 where ignored.
        patch_zyx: shape of the result; the centre is kept.
        spacing_zyx: rotations turn millimetres, not voxels.
        first_index: index of the first sample in the global batch.
        maps: how many of the last channels of `image` are maps (weights) that move but keep their values.

    Returns:
        image [B, C, *patch] and target [B, T, *patch].
    """
    draws = [
        draw(config, keyed.generator(seed, step, first_index + i, keyed.AUGMENT))
        for i in range(len(image))
    ]
    image, target = _move(image, target, draws, patch_zyx, spacing_zyx)
    scans, kept = image[:, : image.shape[1] - maps], image[:, image.shape[1] - maps :]
    changed = torch.stack([_intensity(x, d) for x, d in zip(scans, draws, strict=True)])
    return torch.cat([changed, kept], 1) if maps else changed, target


def centre(x: torch.Tensor, patch_zyx: Zyx) -> torch.Tensor:
    """The centre of [..., Z, Y, X]."""
    for axis, size in zip((-3, -2, -1), patch_zyx, strict=True):
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x


def _move(
    image: torch.Tensor, target: torch.Tensor, draws: list[Draw], patch: Zyx, spacing: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    images, targets = list(centre(image, patch)), list(centre(target, patch))
    turned = [i for i, d in enumerate(draws) if d.affine is not None]
    if turned:
        matrices = [np.asarray(draws[i].affine) for i in turned]
        grid = _grid(matrices, image.shape[2:], patch, spacing).to(image.device)
        index = torch.tensor(turned, device=image.device)
        options: dict[str, Any] = {"align_corners": False, "padding_mode": "reflection"}
        moved = F.grid_sample(image[index], grid, mode="bilinear", **options)
        # shifted by one, so that what lies outside (0 after padding with zeros) is -1: ignored
        shifted = (target[index] + 1).to(image.dtype)
        marks = F.grid_sample(
            shifted, grid, mode="nearest", align_corners=False, padding_mode="zeros"
        )
        marks = marks.round().to(target.dtype) - 1
        for k, i in enumerate(turned):
            images[i], targets[i] = moved[k], marks[k]
    for i, d in enumerate(draws):
        if d.mirror:
            axes = [1 + a for a in d.mirror]
            images[i], targets[i] = images[i].flip(axes), targets[i].flip(axes)
    return torch.stack(images), torch.stack(targets)


def _grid(
    matrices: list[NDArray[np.float64]], wide: Sequence[int], patch: Zyx, spacing: Any
) -> torch.Tensor:
    """Sampling grids [B, *patch, 3] (x, y, z in -1..1 over the wide patch)."""
    mm = np.asarray(spacing)
    thetas = []
    for matrix in matrices:
        voxels = matrix * mm[None, :] / mm[:, None]  # rotate in mm, expressed in voxels
        unit = voxels * np.asarray(patch)[None, :] / np.asarray(wide)[:, None]
        theta = np.zeros((3, 4))
        theta[:, :3] = unit[::-1, ::-1]  # torch's order is x, y, z
        thetas.append(theta)
    theta_tensor = torch.tensor(np.stack(thetas), dtype=torch.float32)
    return F.affine_grid(theta_tensor, [len(matrices), 1, *patch], align_corners=False)


def _intensity(x: torch.Tensor, d: Draw) -> torch.Tensor:
    """Change the values of one image [C, Z, Y, X]."""
    if d.noise:
        generator = torch.Generator(device="cpu").manual_seed(d.seed)
        field = torch.randn(x.shape, generator=generator).to(x.device)
        x = x + d.noise * field
    if d.blur:
        x = blur(x, d.blur)
    if d.brightness != 1:
        x = x * d.brightness
    if d.contrast != 1:
        mean = x.mean((1, 2, 3), keepdim=True)
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = ((x - mean) * d.contrast + mean).clamp(low, high)
    if d.low_resolution < 1:
        small = [max(1, round(n * d.low_resolution)) for n in x.shape[1:]]
        coarse = F.interpolate(x[None], small, mode="nearest-exact")
        x = F.interpolate(coarse, list(x.shape[1:]), mode="trilinear", align_corners=False)[0]
    return gamma(x, d.gamma) if d.gamma else x


def blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of [C, Z, Y, X], cut at three sigma; edges repeat."""
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (1, 2, 3):
        n = x.shape[axis]
        out = torch.zeros_like(x)
        for offset, weight in zip(range(-radius, radius + 1), kernel.tolist(), strict=True):
            index = torch.arange(offset, offset + n, device=x.device).clamp_(0, n - 1)
            out.add_(x.index_select(axis, index), alpha=weight)
        x = out
    return x


def gamma(x: torch.Tensor, exponent: float) -> torch.Tensor:
    """Raise the values, mapped to 0..1, to a power, and give back the old mean and deviation per channel.

    A negative exponent does it to the inverted image.
    """
    if exponent < 0:
        return -gamma(-x, -exponent)
    axes = (1, 2, 3)
    low = x.amin(axes, keepdim=True)
    span = (x.amax(axes, keepdim=True) - low).clamp_min(1e-7)
    raised = ((x - low) / span).pow(exponent)
    mean, std = x.mean(axes, keepdim=True), x.std(axes, keepdim=True, correction=0)
    now, spread = raised.mean(axes, keepdim=True), raised.std(axes, keepdim=True, correction=0)
    return (raised - now) / spread.clamp_min(1e-7) * std + mean
