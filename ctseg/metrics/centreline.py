"""Centreline Dice, for vessels, airways and fibres, where connectivity matters more than width."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ctseg.errors import BadInput
from ctseg.metrics.skeleton import skeleton


def centreline_dice(predicted: NDArray[Any], reference: NDArray[Any]) -> float | None:
    """clDice of two boolean maps [Z, Y, X], 0..1 (Shit et al., CVPR 2021, equations 1 and 2).

    The harmonic mean of the fraction of the predicted centreline inside the reference and the fraction of the
    reference's centreline inside the prediction.

    Returns:
        None where either map is empty.

    Raises:
        BadInput: the shapes differ.
    """
    if predicted.shape != reference.shape:
        raise BadInput(
            f"The maps have the shapes {predicted.shape} and {reference.shape} and must be alike."
        )
    one, two = predicted.astype(bool, copy=False), reference.astype(bool, copy=False)
    if not one.any() or not two.any():
        return None
    precision, recall = float(two[skeleton(one)].mean()), float(one[skeleton(two)].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
