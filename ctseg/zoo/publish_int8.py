"""8-bit integers for a published model: ranges from scans that trained, kept where the Dice of the others holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctseg.card import Card
from ctseg.card_int8 import Int8
from ctseg.card_metrics import Metrics
from ctseg.data.load import load_image
from ctseg.engine.inference.backends.int8 import recording
from ctseg.engine.inference.model import NetworkModel
from ctseg.engine.model.runtime import choose
from ctseg.engine.prediction.api import Segmenter
from ctseg.engine.training.validate import OnCase, cases_of
from ctseg.errors import BadInput

if TYPE_CHECKING:
    from ctseg.engine.inference.model import Model

SCANS = 8
"""Training scans that are predicted for the ranges, spread over all of them."""
LOSS = 0.001
"""Mean Dice that int8 may lose."""


def check_int8(card: Card, *, measure: bool) -> None:
    """Reject a model for which int8 cannot be decided, before anything is measured.

    Raises:
        BadInput: a regression, no measurement, or no OpenVINO.
    """
    if card.task.kind == "regression":
        raise BadInput(
            "int8 is judged by Dice, which a regression has not.", hint="Leave out --int8."
        )
    if not measure:
        raise BadInput(
            "int8 is kept only where the Dice of the validation cases holds, so they must be measured.",
            hint="Leave out --no-measure or --int8.",
        )
    choose("cpu", "int8", "openvino")


def with_ranges(
    card: Card,
    files: Sequence[Path],
    folders: Sequence[Path],
    staged: Callable[[Model, Path], Model],
    on_case: OnCase | None = None,
) -> Card:
    """The card with the ranges of convolutions' inputs in training scans.

    Args:
        files: the weights of the members.
        folders: their runs.
        staged: puts coarse models before the model of a file.

    Raises:
        BadInput: a network without convolutions that int8 makes faster.
    """
    inputs = {}
    for file, run in zip(files, folders, strict=True):
        config, cases, _ = cases_of(run)
        chosen = cases[:: max(1, len(cases) // SCANS)][:SCANS]
        model = NetworkModel.from_files([file], device=config.train.device, precision="fp32")
        segmenter, ranges = Segmenter.of(staged(model, file)), dict[str, tuple[float, float]]()
        with recording(model.networks[0], ranges):
            for done, case in enumerate(chosen, start=1):
                segmenter.predict(load_image(case), rules=())
                if on_case:
                    on_case(done, len(chosen), case.id)
        if not ranges:
            raise BadInput(
                f"{card.architecture} has no convolutions that int8 makes faster.",
                hint="Leave out --int8.",
            )
        inputs[file.name] = {
            name: (float(f"{low:.6g}"), float(f"{high:.6g}"))
            for name, (low, high) in ranges.items()
        }
    return card.model_copy(update={"int8": Int8(inputs=inputs), "card_version": 2})


def judged(card: Card, found: Metrics) -> Card:
    """The card with the figures of int8, and with its ranges only where the mean Dice holds.

    Args:
        found: in int8; the card's own figures are those without.
    """
    assert card.int8 is not None
    with_it, without = found.mean_dice, card.metrics.mean_dice
    holds = with_it is not None and without is not None and with_it >= without - LOSS
    return card.model_copy(
        update={
            "int8": Int8(
                inputs=card.int8.inputs if holds else {}, dice=found.dice, mean_dice=with_it
            )
        }
    )
