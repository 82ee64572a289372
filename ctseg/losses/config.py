"""The options of the losses. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctseg.errors import ConfigError


def _check_weights(name: str, weights: tuple[float, ...]) -> None:
    if weights and (min(weights) < 0 or max(weights) <= 0):
        raise ConfigError(
            f"{name} is {weights}; weights are not negative and one is above 0.",
            hint="Give one number a class, or none to weigh all alike",
        )


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig:
    """Options of `ce` and `bce`."""

    class_weights: tuple[float, ...] = field(
        default=(),
        metadata={"help": "weight of each output channel, background included; empty: all alike"},
    )

    def __post_init__(self) -> None:
        _check_weights("class_weights", self.class_weights)


@dataclass(frozen=True, kw_only=True)
class DiceConfig:
    """Options of `dice`."""

    include_background: bool = field(
        default=False, metadata={"help": "for the task `classes`: whether class 0 counts"}
    )
    squared: bool = field(
        default=False,
        metadata={"help": "squares in the denominator (V-Net) rather than plain sums"},
    )
    smooth: float = field(
        default=1e-5,
        metadata={"help": "added to numerator and denominator, so empty classes are finite"},
    )
    batch: bool = field(
        default=False, metadata={"help": "one Dice over the whole batch rather than one a sample"}
    )
    class_weights: tuple[float, ...] = field(
        default=(),
        metadata={"help": "weight of each output channel, background included; empty: all alike"},
    )

    def __post_init__(self) -> None:
        _check_weights("class_weights", self.class_weights)
        if self.smooth <= 0:
            raise ConfigError(
                f"smooth is {self.smooth}; a class that is nowhere would divide by zero.",
                hint="Use a small positive number, e.g. 1e-5",
            )


@dataclass(frozen=True, kw_only=True)
class DiceCEConfig(DiceConfig):
    """Options of `dice_ce`."""

    dice_weight: float = field(default=1.0, metadata={"help": "factor of the Dice part"})
    ce_weight: float = field(default=1.0, metadata={"help": "factor of the cross-entropy part"})


@dataclass(frozen=True, kw_only=True)
class BCEDiceConfig(DiceConfig):
    """Options of `bce_dice`."""

    alpha: float = field(default=1.0, metadata={"help": "factor of the binary cross-entropy part"})
    beta: float = field(default=1.0, metadata={"help": "factor of the Dice part"})
