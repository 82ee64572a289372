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
    """What a device can handle.

    Attributes:
        patch_voxels: voxels of one patch.
        features: width of the network at full resolution.
        max_features: width of the deepest level.
        batch_size: patches of that size in a training step.
        coarsest: largest factor by which the target spacing may exceed the spacing of the data.
    """

    patch_voxels: int
    features: int
    max_features: int
    batch_size: int
    coarsest: float


BUDGETS = {
    "cpu": Budget(48**3, 24, 192, 2, 2.5),
    "mps": Budget(80**3, 32, 320, 2, 1.5),
    "cuda": Budget(128**3, 32, 320, 2, 1.0),
}
