"""What one Hounsfield unit is in an image that went through the preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HUNDREDTH = 0.01


def hounsfield(steps: Iterable[Mapping[str, Any]], channels: int = 1) -> tuple[float, ...]:
    """The size of one unit of the scan after the steps of `[preprocess]`, by channel.

    Steps that give each scan a scale of its own leave no such number: a hundredth then (of a deviation).

    Args:
        channels: of the scan; more where the steps name more.
    """
    steps = [step for step in steps if step.get("kind") in _CHANGES]
    named = (
        max(len(step.get("std", ())), 1 + max(step.get("channels", ()), default=0))
        for step in steps
    )
    units = [1.0] * max(channels, *named, 1)
    for step in steps:
        for place, channel in enumerate(step.get("channels") or range(len(units))):
            units[channel] = _after(units[channel], step, place)
    return tuple(units)


_CHANGES = ("normalise", "rescale", "normalise_case", "rescale_case")
_RANGE = {"low": 0.0, "high": 255.0, "to_low": -1.0, "to_high": 1.0}


def _after(unit: float, step: Mapping[str, Any], place: int) -> float:
    """A unit after a step of `_CHANGES`, of which the channel is the one at this place."""
    if step["kind"] == "normalise":
        std = step.get("std", (1.0,))
        return unit / float(std[place % len(std)])
    if step["kind"] == "rescale":
        low, high, to_low, to_high = (float(step.get(k, v)) for k, v in _RANGE.items())
        return unit * (to_high - to_low) / (high - low)
    return HUNDREDTH
