"""Changes of the values of one image [C, Z, Y, X], in place: noise, brightness, contrast, gamma, a constant shift.

Sums run over rows first, so that they do not depend on how many threads add them up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

TINY = 1e-7


def add_noise(x: torch.Tensor, deviation: float, seed: int) -> None:
    """Add Gaussian noise; the field is drawn on the image's device from the seed."""
    generator = torch.Generator(device=x.device).manual_seed(seed)
    field = torch.empty(x.shape, device=x.device).normal_(generator=generator)
    x.add_(field, alpha=deviation)


def scale_brightness(x: torch.Tensor, factor: float) -> None:
    """Multiply all values."""
    x.mul_(factor)


def scale_contrast(x: torch.Tensor, factor: float) -> None:
    """Multiply the distance to each channel's mean; the channel's range is kept by clipping."""
    means, ends = mean(x), [torch.aminmax(channel) for channel in x]
    x.mul_(factor).add_((means * (1 - factor)).view(-1, 1, 1, 1))
    for channel, (low, high) in zip(x, ends, strict=True):
        channel.clamp_(float(low), float(high))


def gamma(x: torch.Tensor, exponent: float, *, inverted: bool = False) -> None:
    """Raise the values, mapped to 0..1, to a power, and give each channel its mean and deviation back.

    Args:
        inverted: raise the negative of the image instead.
    """
    for channel in x:
        low, high = torch.aminmax(channel)
        span = (high - low).clamp_min(TINY)
        sign = -1.0 if inverted else 1.0
        channel.sub_(high if inverted else low).mul_(sign / span)
        channel.clamp_(min=0)  # rounding must not reach the logarithm
        before, spread = mean(channel[None]), deviation(channel[None])
        channel.log_().mul_(exponent).exp_()
        now, wide = mean(channel[None]), deviation(channel[None])
        factor = spread / wide.clamp_min(TINY)
        start = high if inverted else low
        channel.mul_(sign * span * factor).add_(sign * span * (before - now * factor) + start)


def add_shift(x: torch.Tensor, values: Sequence[float]) -> None:
    """Add a constant to each channel."""
    for channel, value in zip(x, values, strict=True):
        channel.add_(value)


def mean(x: torch.Tensor) -> torch.Tensor:
    """Mean of each channel of [C, Z, Y, X]."""
    return x.flatten(2).sum(-1).sum(-1) / x[0].numel()


def deviation(x: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each channel of [C, Z, Y, X] whose values are about 0..1."""
    lengths: torch.Tensor = torch.linalg.vector_norm(x.flatten(2), dim=-1)
    squares = lengths.square().sum(-1) / x[0].numel()
    return (squares - mean(x).square()).clamp_min(0).sqrt()
