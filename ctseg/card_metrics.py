"""The part of a card that says how well a model did, and where the figures come from."""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from ctseg.config import Section


class Metrics(Section):
    """Figures and where they come from.

    Attributes:
        dice: mean Dice of each foreground label over the cases that have it.
        mean_dice: the mean of these over the labels.
        dice_interval: 95 % bootstrap interval of each of `dice`, over patients (cases of no group are one each).
        mean_interval: that of `mean_dice`.
        scores: means of other metrics by label, e.g. of `psnr`, `mse` and `mae` for a regression.
        cases: the number of validation cases.
        command: what prints the same figure.
    """

    dice: dict[str, FiniteFloat] = {}
    mean_dice: float | None = Field(None, allow_inf_nan=False)
    dice_interval: dict[str, tuple[FiniteFloat, FiniteFloat]] = {}
    mean_interval: tuple[FiniteFloat, FiniteFloat] | None = None
    scores: dict[str, dict[str, FiniteFloat]] = {}
    cases: int = 0
    command: str = ""


INTERVALS = ("dice_interval", "mean_interval")
"""Keys that came with version 2 of the card."""
