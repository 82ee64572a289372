"""What one Hounsfield unit is in an image that went through the preprocessing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HUNDREDTH = 0.01


def hounsfield(steps: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    """The size of one unit of the scan after the steps of `[preprocess]`, a number a channel or one for all.

    Steps that give each scan a scale of its own leave no such number: a hundredth then (of a deviation).
    """
    units: tuple[float, ...] = (1.0,)
    for step in steps:
        kind = step.get("kind")
        if kind == "normalise":
            std = tuple(float(s) for s in step.get("std", (1.0,)))
            count = max(len(std), len(units))
            units = tuple(
                unit / deviation
                for unit, deviation in zip(_each(units, count), _each(std, count), strict=True)
            )
        elif kind == "rescale":
            ends = [float(step.get(key, default)) for key, default in _RANGE.items()]
            factor = (ends[3] - ends[2]) / (ends[1] - ends[0])
            units = tuple(unit * factor for unit in units)
        elif kind in ("normalise_case", "rescale_case"):
            units = (HUNDREDTH,)
    return units


_RANGE = {"low": 0.0, "high": 255.0, "to_low": -1.0, "to_high": 1.0}


def _each(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values if len(values) == count else values[:1] * count
