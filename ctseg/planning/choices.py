"""The choices of a plan, each with the reason that `plan.json` gives for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


@dataclass
class Plan:
    """Every choice of a run that the user left open, in order.

    Attributes:
        choices: for each name its `value` as plain JSON and its `reason`.
    """

    choices: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, choice: tuple[T, str], *, shown: Any = None) -> T:
        """Record a choice and return its value.

        Args:
            choice: value and reason, as the functions of this package return them.
            shown: recorded instead of the value if the value is not plain JSON or too long to read.
        """
        value, reason = choice
        self.choices[name] = {"value": value if shown is None else shown, "reason": reason}
        return value


class Budget(NamedTuple):
    """A size of training.

    Attributes:
        patch_voxels: voxels of one patch.
        features: width of the network at full resolution.
        max_features: width of the deepest level.
        batch_size: patches of that size in a training step.
        coarsest: largest factor by which the target spacing may exceed the spacing of the data.
        steps: with this many optimizer steps the size pays; a smaller one does better with fewer.
    """

    patch_voxels: int
    features: int
    max_features: int
    batch_size: int
    coarsest: float
    steps: int


LEVELS = (
    Budget(32**3, 16, 128, 2, 3.0, 0),
    Budget(40**3, 16, 128, 2, 3.0, 200),
    Budget(48**3, 24, 192, 2, 2.5, 800),
    Budget(64**3, 32, 256, 2, 2.0, 2500),
    Budget(80**3, 32, 320, 2, 1.5, 3500),
    Budget(96**3, 32, 320, 2, 1.25, 4500),
    Budget(128**3, 32, 320, 2, 1.0, 7000),
    Budget(160**3, 32, 320, 2, 1.0, 10_000),
    Budget(192**3, 32, 320, 2, 1.0, 13_000),
    Budget(192**3, 32, 320, 4, 1.0, 20_000),
)
"""Sizes of training, smallest first; `docs/explanation/plans.md` gives the reasons."""
USUAL = {"cpu": 2, "mps": 4, "cuda": 6}
"""The size for each device where neither time nor memory decides."""


def usual_budget(device: str) -> Budget:
    return LEVELS[USUAL[device]]
