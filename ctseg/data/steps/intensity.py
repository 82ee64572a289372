"""Steps that change values by numbers that are the same for every scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ctseg.data.steps.base import Array, OfChannels, Record, fitting, paired
from ctseg.errors import ConfigError


@dataclass(frozen=True)
class Clip(OfChannels):
    """Clip each channel to a range; one range serves all channels.

    Attributes:
        low, high: in the unit of the scan (HU in CT), one number a channel.
        channels: the only ones that are clipped, counted from 0; all where there are none.
    """

    kind: ClassVar[str] = "clip"
    low: tuple[float, ...] = (-1024.0,)
    high: tuple[float, ...] = (3071.0,)
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        pairs = paired(self.kind, self.low, self.high)
        if any(not low <= high for low, high in pairs):
            raise ConfigError(
                f"A range rises from low to high: {self.low} to {self.high}.",
                hint="For example: low = [-160], high = [240]",
            )

    def values(self, chosen_czyx: Array, image_czyx: Array, record: Record) -> Array:
        low, high = (fitting(self.kind, one, chosen_czyx) for one in (self.low, self.high))
        return np.clip(chosen_czyx, low, high)


@dataclass(frozen=True)
class Normalise(OfChannels):
    """(x - mean) / std with fixed numbers, as the foreground statistics of a CT data set.

    Attributes:
        mean, std: one number a channel.
        channels: the only ones that are normalised, counted from 0; all where there are none.
    """

    kind: ClassVar[str] = "normalise"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        paired(self.kind, self.mean, self.std)
        if min(self.std) <= 0:
            raise ConfigError(f"The deviation to divide by must be positive: {self.std}.")

    def values(self, chosen_czyx: Array, image_czyx: Array, record: Record) -> Array:
        mean, std = (fitting(self.kind, one, chosen_czyx) for one in (self.mean, self.std))
        scaled = (chosen_czyx - mean) / std
        return scaled.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Rescale(OfChannels):
    """Map a range linearly onto another one, e.g. 0..255 onto -1..1.

    Attributes:
        low, high: the range of the scan.
        to_low, to_high: the range after.
        clip: whether values outside are clipped; MONAI's ScaleIntensityRange leaves them unless told so.
        channels: the only ones that are rescaled, counted from 0; all where there are none.
    """

    kind: ClassVar[str] = "rescale"
    low: float = 0.0
    high: float = 255.0
    to_low: float = -1.0
    to_high: float = 1.0
    clip: bool = True
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.high <= self.low:
            raise ConfigError(f"The range {self.low}..{self.high} is empty.")

    def values(self, chosen_czyx: Array, image_czyx: Array, record: Record) -> Array:
        values = np.clip(chosen_czyx, self.low, self.high) if self.clip else chosen_czyx
        share = (values - np.float32(self.low)) / (self.high - self.low)
        out = share * (self.to_high - self.to_low) + self.to_low
        return out.astype(np.float32, copy=False)
