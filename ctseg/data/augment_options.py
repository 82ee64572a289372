"""Options of the augmentations that are registered by name; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctseg.errors import ConfigError


@dataclass(frozen=True)
class RingsConfig:
    """Options of `rings`."""

    strength: float = field(
        default=0.3, metadata={"help": "largest deviation of a ring, in deviations of the patch"}
    )
    density: float = field(default=0.3, metadata={"help": "share of the radii that have a ring"})

    def __post_init__(self) -> None:
        if not self.strength >= 0 or not 0 <= self.density <= 1:
            raise ConfigError(
                f"strength is 0 or more and density a share of 0 to 1, not {self.strength} and {self.density}."
            )
