"""Ring artefacts, as miscalibrated detector elements leave them in slices of a CT."""

from __future__ import annotations

import math

import numpy as np
import torch

from ctseg.data.augment_options import RingsConfig


class Rings:
    """Add rings about an axis along z, which lies within a patch's width of the patch's centre."""

    def __init__(self, config: RingsConfig) -> None:
        self.config = config

    def __call__(
        self,
        image: torch.Tensor,
        target: torch.Tensor,
        *,
        rng: np.random.Generator,
        spacing_zyx: tuple[float, float, float],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = image.shape[-2:]
        _, mm_y, mm_x = spacing_zyx
        unit = min(mm_y, mm_x)
        centre_y, centre_x = (rng.uniform(-0.5, 1.5) * n for n in (height, width))
        y = (torch.arange(height, device=image.device) - centre_y) * (mm_y / unit)
        x = (torch.arange(width, device=image.device) - centre_x) * (mm_x / unit)
        radius = torch.hypot(y[:, None].float(), x[None, :].float())
        longest = math.ceil(float(radius.max())) + 2
        profile = rng.standard_normal(longest) * (rng.random(longest) < self.config.density)
        strength = rng.uniform(0, self.config.strength)
        values = torch.from_numpy(profile.astype(np.float32)).to(image.device)
        low = radius.long()
        share = radius - low
        rings = values[low] * (1 - share) + values[low + 1] * share
        spread = image.flatten(1).std(1) if image[0].numel() > 1 else image.new_zeros(len(image))
        image.add_(rings.to(image.dtype) * (strength * spread).view(-1, 1, 1, 1))
        return image, target
