"""Normalisation layers, made for mixed precision and channels-last tensors."""

from __future__ import annotations

import math

from torch import nn

from ctseg.nets.config import Norm


class InstanceNorm(nn.InstanceNorm3d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)


def make_norm(kind: Norm, channels: int, *, groups: int) -> nn.Module:
    """The normalisation layer of that name for `channels` channels."""
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(groups, channels), channels)
    return nn.Identity()
