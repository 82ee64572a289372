"""The scale of a regression's targets: one that networks learn on, and the way back to the data's own unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ctseg.data.steps.base import Array, OnValues, Record
from ctseg.errors import ConfigError
from ctseg.volume.geometry import Geometry


@dataclass(frozen=True)
class NormaliseTarget(OnValues):
    """A network learns (target - mean) / std of a regression, and predictions come back in the target's own unit.

    The scan is left alone; so are stored targets, which are scaled batch by batch.

    Attributes:
        mean, std: one number an output channel.
    """

    kind: ClassVar[str] = "normalise_target"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ConfigError(
                f"normalise_target has {len(self.mean)} means and {len(self.std)} deviations.",
                hint="Give one of each for every output channel",
            )
        if min(self.std) <= 0:
            raise ConfigError(f"The deviation to divide by must be positive: {self.std}.")

    def image(self, image_czyx: Array, geometry: Geometry, record: Record) -> Array:
        return image_czyx


Scale = tuple[tuple[float, ...], tuple[float, ...]]


def target_scale(steps: Iterable[Mapping[str, Any]], channels: int) -> Scale | None:
    """Mean and deviation of each output channel from the plain steps of a run or card; None where none are named.

    Raises:
        ConfigError: neither one number nor one a channel.
    """
    found = None
    for step in steps:
        if step.get("kind") == NormaliseTarget.kind:
            found = tuple(step.get("mean", (0.0,))), tuple(step.get("std", (1.0,)))
    if found is not None and len(found[0]) not in (1, channels):
        raise ConfigError(
            f"normalise_target has {len(found[0])} numbers for {channels} output channels.",
            hint="Give one mean and one std for every channel",
        )
    return found
