"""Steps that change values by statistics of the scan at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy

from ctseg.data.steps.base import Array, OfChannels, Parts, Record, per_channel
from ctseg.data.steps.statistics import Values, mean_and_deviation, percentiles_of
from ctseg.errors import ConfigError
from ctseg.volume.geometry import Geometry


@dataclass(frozen=True)
class NormaliseCase(OfChannels):
    """(x - mean) / std with each scan's own mean and deviation, per channel.

    Attributes:
        nonzero: take the statistics over non-zero voxels only, and leave the others at 0.
        percentiles: clip to these percentiles of the scan first; (0, 100) for none.
        filled: with `nonzero`: voxels where any channel is not 0, holes within included, serve all channels, as
            nnU-Net's mask.
        joint: one mean and deviation for all channels together, as pytorch-3dunet's Standardize.
        channels: the only ones that are normalised, counted from 0; all where there are none. With `filled` the other
            ones count for the mask all the same.
    """

    kind: ClassVar[str] = "normalise_case"
    fits: ClassVar[bool] = True
    nonzero: bool = False
    percentiles: tuple[float, float] = (0.0, 100.0)
    filled: bool = False
    joint: bool = False
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_percentiles(self.percentiles)
        if self.filled and not self.nonzero:
            raise ConfigError("'filled' fills the region of non-zero voxels; set nonzero = true.")

    @property
    def local(self) -> bool:
        return not self.filled

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        out: Record = {"low": [], "high": [], "mean": [], "std": []}
        chosen = self.chosen(image_czyx)
        masks = self._masks(chosen, image_czyx)
        if self.joint:
            chosen, masks = _joined(chosen, masks)
        for channel, mask in zip(chosen, masks, strict=True):
            values = channel.ravel() if mask is None or not mask.any() else channel[mask]
            low, high = _percentiles(values, self.percentiles)
            values = np.clip(values, low, high).astype(np.float64)
            for key, value in zip(
                ("low", "high", "mean", "std"),
                (low, high, float(values.mean()), max(float(values.std()), 1e-8)),
                strict=True,
            ):
                out[key].append(value)
        return out

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record | None:
        if self.filled:
            return None
        out: Record = {"low": [], "high": [], "mean": [], "std": []}
        for values in _channels(self.chosen_parts(parts), nonzero=self.nonzero, joint=self.joint):
            low, high = percentiles_of(values, self.percentiles)
            mean, std = mean_and_deviation(values, low, high)
            for key, value in zip(out, (low, high, mean, max(std, 1e-8)), strict=True):
                out[key].append(value)
        return out

    def values(self, chosen_czyx: Array, image_czyx: Array, record: Record) -> Array:
        clipped = np.clip(chosen_czyx, per_channel(record["low"]), per_channel(record["high"]))
        out = (clipped - per_channel(record["mean"])) / per_channel(record["std"])
        out = out.astype(np.float32, copy=False)
        for channel, mask in zip(out, self._masks(chosen_czyx, image_czyx), strict=True):
            if mask is not None:
                channel[~mask] = 0
        return out

    def _masks(self, chosen_czyx: Array, image_czyx: Array) -> list[Array | None]:
        """Where each channel counts; None for everywhere."""
        if not self.nonzero:
            return [None] * len(chosen_czyx)
        if not self.filled:
            return [channel != 0 for channel in chosen_czyx]
        mask = scipy.ndimage.binary_fill_holes(np.any(image_czyx != 0, axis=0))
        return [mask] * len(chosen_czyx)


@dataclass(frozen=True)
class RescaleCase(OfChannels):
    """Map two percentiles of each scan linearly onto a range, per channel.

    With (0, 100) these are its least and greatest value, as pytorch-3dunet's Normalize and nnU-Net's rescaling to
    0..1; with others its PercentileNormalizer and MONAI's ScaleIntensityRangePercentiles. A constant scan becomes
    `to_low`.

    Attributes:
        percentiles: of the scan.
        to_low, to_high: the range after.
        clip: whether values beyond the percentiles are clipped.
        nonzero: take the percentiles over non-zero voxels only, and set the others to `to_low`.
        joint: the percentiles of all channels together, as pytorch-3dunet.
        channels: the only ones that are rescaled, counted from 0; all where there are none.
    """

    kind: ClassVar[str] = "rescale_case"
    fits: ClassVar[bool] = True
    percentiles: tuple[float, float] = (0.0, 100.0)
    to_low: float = -1.0
    to_high: float = 1.0
    clip: bool = True
    nonzero: bool = False
    joint: bool = False
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check_percentiles(self.percentiles)

    def fit(self, image_czyx: Array, geometry: Geometry) -> Record:
        out: Record = {"low": [], "high": []}
        chosen = self.chosen(image_czyx)
        if self.joint:
            chosen, _ = _joined(chosen, [None])
        for channel in chosen:
            values = channel[channel != 0] if self.nonzero and channel.any() else channel.ravel()
            low, high = _percentiles(values, self.percentiles)
            out["low"].append(low)
            out["high"].append(high)
        return out

    def fit_parts(self, parts: Parts, geometry: Geometry) -> Record | None:
        out: Record = {"low": [], "high": []}
        for values in _channels(self.chosen_parts(parts), nonzero=self.nonzero, joint=self.joint):
            low, high = percentiles_of(values, self.percentiles)
            out["low"].append(low)
            out["high"].append(high)
        return out

    def values(self, chosen_czyx: Array, image_czyx: Array, record: Record) -> Array:
        low, high = per_channel(record["low"]), per_channel(record["high"])
        values = np.clip(chosen_czyx, low, high) if self.clip else chosen_czyx
        width = np.where(high > low, high - low, np.float32(1))
        out = (values - low) / width * (self.to_high - self.to_low) + self.to_low
        if self.nonzero:
            out = np.where(chosen_czyx == 0, self.to_low, out)
        return out.astype(np.float32, copy=False)


def _joined(image_czyx: Array, masks: list[Array | None]) -> tuple[Array, list[Array | None]]:
    """All channels behind each other as one, and their masks."""
    channels, depth, *plane = image_czyx.shape
    own = [mask for mask in masks if mask is not None]
    joined = image_czyx.reshape(1, channels * depth, *plane)
    return joined, [np.concatenate(own) if own else None]


def _channels(parts: Parts, *, nonzero: bool, joint: bool) -> list[Values]:
    """The values of each channel, or of all as one: those other than 0, or all where there are none or it is off."""
    count = next(len(part) for _, part in parts())
    groups = [slice(None)] if joint else [slice(i, i + 1) for i in range(count)]

    def values(group: slice, kept: bool) -> Values:
        def give() -> Iterator[Array]:
            for _, part in parts():
                chosen = part[group]
                yield chosen[chosen != 0] if kept else chosen.ravel()

        return give

    out = []
    for group in groups:
        kept = nonzero and any(bool(part[group].any()) for _, part in parts())
        out.append(values(group, kept))
    return out


def _check_percentiles(percentiles: tuple[float, float]) -> None:
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ConfigError(f"Percentiles rise within 0..100: {percentiles}.")


def _percentiles(values: Array, percentiles: tuple[float, float]) -> tuple[float, float]:
    if percentiles == (0.0, 100.0):  # the usual case, without a sort
        return float(values.min()), float(values.max())
    low, high = (float(v) for v in np.percentile(values, percentiles))
    return low, high
