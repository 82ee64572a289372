"""The part of a card that lets a network be computed with 8-bit integers."""

from __future__ import annotations

from pydantic import FiniteFloat, field_validator

from ctseg.config import Section

Ranges = dict[str, tuple[FiniteFloat, FiniteFloat]]
"""By the name of a convolution, the smallest and the largest value of its input."""


class Int8(Section):
    """What `--precision int8` needs, and what it was measured to give.

    Attributes:
        inputs: for each file of weights and each of its convolutions, the smallest and largest value that its input
            had in training scans; empty where int8 lost more Dice than allowed.
        dice: mean Dice of each foreground label in int8, on the cases of `metrics`.
        mean_dice: the mean of these over the labels.
    """

    inputs: dict[str, Ranges] = {}
    dice: dict[str, float] = {}
    mean_dice: float | None = None

    @field_validator("inputs")
    @classmethod
    def _rising(cls, value: dict[str, Ranges]) -> dict[str, Ranges]:
        for ranges in value.values():
            for layer, (low, high) in ranges.items():
                if not low < high:
                    raise ValueError(f"the range of {layer} goes from {low:g} to {high:g}")
        return value
