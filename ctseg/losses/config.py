"""Options of the losses. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from ctseg.errors import ConfigError


def _check_weights(name: str, weights: tuple[float, ...]) -> None:
    if weights and (min(weights) < 0 or max(weights) <= 0):
        raise ConfigError(
            f"{name} is {weights}; no weight may be negative, and at least one is above 0.",
            hint="Give one number per class, or none to weight all equally",
        )


def _check_positive(name: str, value: float, why: str) -> None:
    if not value > 0:
        raise ConfigError(f"{name} is {value}; {why}.", hint="Use a positive number")


def _check_parts(**factors: float) -> None:
    """Refuse factors of a sum if one is negative, which would reward errors, or if all are 0."""
    if min(factors.values()) < 0 or max(factors.values()) == 0:
        listed = " and ".join(f"{name} {value}" for name, value in factors.items())
        raise ConfigError(f"{listed}: none may be negative, and at least one is above 0.")


@dataclass(frozen=True, kw_only=True)
class ClassWeights:
    """The option that every loss has."""

    class_weights: tuple[float, ...] = field(
        default=(),
        metadata={"help": "weight of each output channel, background included; empty: all equal"},
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
                raise ConfigError(f"{option.name} is {value}.", hint="Use finite numbers")
        _check_weights("class_weights", self.class_weights)


@dataclass(frozen=True, kw_only=True)
class CrossEntropyConfig(ClassWeights):
    """Options of `ce` and `wce`, and of every other mean over voxels."""

    batch: bool = field(
        default=True,
        metadata={"help": "one mean over the whole batch rather than the mean over samples"},
    )


@dataclass(frozen=True, kw_only=True)
class BCEConfig(CrossEntropyConfig):
    """Options of `bce`."""

    pos_weight: tuple[float, ...] = field(
        default=(),
        metadata={"help": "factor of the positive part, one number or one per channel, e.g. [3]"},
    )
    reduction: Literal["mean", "sum"] = field(
        default="mean", metadata={"help": "mean, or sum over voxels, channels and samples"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_weights("pos_weight", self.pos_weight)


@dataclass(frozen=True, kw_only=True)
class FocalConfig(CrossEntropyConfig):
    """Options of `focal`."""

    gamma: float = field(
        default=2.0, metadata={"help": "focus on hard voxels; 0: plain cross-entropy"}
    )
    alpha: float | None = field(
        default=None,
        metadata={
            "help": "factor of the positives, 1 - alpha for the others (background); default none"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma < 0:
            raise ConfigError(f"gamma is {self.gamma}; it must be 0 or more.")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha is {self.alpha}; it is a fraction, 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class OverlapConfig(ClassWeights):
    """Options that losses of overlap have in common."""

    include_background: bool = field(
        default=False, metadata={"help": "for the task `classes`: whether class 0 counts"}
    )
    smooth: float = field(
        default=1e-5,
        metadata={"help": "added to numerator and denominator, so empty classes are finite"},
    )
    batch: bool = field(
        default=False, metadata={"help": "one Dice over the whole batch rather than one per sample"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smooth <= 0:
            raise ConfigError(
                f"smooth is {self.smooth}; a class without any voxel would divide by zero.",
                hint="Use a small positive number, e.g. 1e-5",
            )


@dataclass(frozen=True, kw_only=True)
class DiceConfig(OverlapConfig):
    """Options of `dice`."""

    squared: bool = field(
        default=False,
        metadata={"help": "squares in the denominator (V-Net) rather than plain sums"},
    )


@dataclass(frozen=True, kw_only=True)
class GeneralizedDiceConfig(OverlapConfig):
    """Options of `generalized_dice`."""

    include_background: bool = field(
        default=True, metadata={"help": "for the task `classes`: whether class 0 counts"}
    )
    smooth: float = field(
        default=1e-10, metadata={"help": "added to numerator and denominator, both of order 1/T"}
    )
    complement: bool = field(
        default=True,
        metadata={"help": "whether a single channel gets its complement as a second one"},
    )


@dataclass(frozen=True, kw_only=True)
class TverskyConfig(OverlapConfig):
    """Options of `tversky`."""

    alpha: float = field(default=0.3, metadata={"help": "weight of false positives"})
    beta: float = field(default=0.7, metadata={"help": "weight of false negatives"})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_parts(alpha=self.alpha, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class FocalTverskyConfig(TverskyConfig):
    """Options of `focal_tversky`."""

    gamma: float = field(
        default=4 / 3, metadata={"help": "the loss of a class is raised to 1/gamma; 1 to 3"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("gamma", self.gamma, "the loss is raised to 1/gamma")


@dataclass(frozen=True, kw_only=True)
class DiceCEConfig(DiceConfig):
    """Options of `dice_ce`."""

    dice_weight: float = field(default=1.0, metadata={"help": "factor of the Dice part"})
    ce_weight: float = field(default=1.0, metadata={"help": "factor of the cross-entropy part"})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_parts(dice_weight=self.dice_weight, ce_weight=self.ce_weight)


@dataclass(frozen=True, kw_only=True)
class DiceTopKConfig(DiceCEConfig):
    """Options of `dice_topk`."""

    k: float = field(
        default=10.0, metadata={"help": "percentage of voxels, the worst ones, that count"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.k <= 100:
            raise ConfigError(f"k is {self.k}; it is a percentage, above 0 and up to 100.")


@dataclass(frozen=True, kw_only=True)
class BCEDiceConfig(DiceConfig):
    """Options of `bce_dice`."""

    alpha: float = field(default=1.0, metadata={"help": "factor of the binary cross-entropy part"})
    beta: float = field(default=1.0, metadata={"help": "factor of the Dice part"})
    pos_weight: tuple[float, ...] = field(
        default=(),
        metadata={"help": "factor of the positive part, one number or one per channel, e.g. [3]"},
    )
    reduction: Literal["mean", "sum"] = field(
        default="mean",
        metadata={"help": "reduction of the cross-entropy: mean, or sum over everything"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_weights("pos_weight", self.pos_weight)
        _check_parts(alpha=self.alpha, beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class CLDiceConfig(ClassWeights):
    """Options of `cldice`."""

    alpha: float = field(
        default=0.5, metadata={"help": "fraction of the centreline part; the rest is soft Dice"}
    )
    iterations: int = field(
        default=3, metadata={"help": "erosions; at least the largest radius in voxels"}
    )
    include_background: bool = field(
        default=False, metadata={"help": "for the task `classes`: whether class 0 counts"}
    )
    smooth: float = field(
        default=1.0,
        metadata={"help": "added to numerators and denominators of the centreline part"},
    )
    batch: bool = field(
        default=False, metadata={"help": "sums over the whole batch rather than per sample"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("smooth", self.smooth, "an empty skeleton would divide by zero")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha is {self.alpha}; it is a fraction, 0 to 1.")
        if self.iterations < 0:
            raise ConfigError(f"iterations is {self.iterations}; it must be 0 or more.")


@dataclass(frozen=True, kw_only=True)
class BoundaryConfig(ClassWeights):
    """Options of `boundary`."""

    boundary_weight: float = field(default=0.01, metadata={"help": "factor of the distance part"})
    region_weight: float = field(
        default=1.0, metadata={"help": "factor of the generalised Dice; 0 for the distance alone"}
    )
    spacing_zyx: tuple[float, float, float] = field(
        default=(1.0, 1.0, 1.0), metadata={"help": "unit of distances: 1 voxel, or its size in mm"}
    )
    include_background: bool = field(
        default=False,
        metadata={"help": "for the task `classes`: whether the surface of class 0 counts"},
    )
    batch: bool = field(
        default=False,
        metadata={"help": "one mean and Dice over the whole batch rather than one per sample"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("spacing_zyx", min(self.spacing_zyx), "voxels have a size")
        _check_parts(boundary_weight=self.boundary_weight, region_weight=self.region_weight)


@dataclass(frozen=True, kw_only=True)
class SmoothL1Config(CrossEntropyConfig):
    """Options of `smooth_l1`."""

    beta: float = field(default=1.0, metadata={"help": "difference above which the loss is linear"})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("beta", self.beta, "a loss that is linear everywhere is l1")


@dataclass(frozen=True, kw_only=True)
class WeightedSmoothL1Config(SmoothL1Config):
    """Options of `weighted_smooth_l1`."""

    threshold: float = field(
        default=0.0,
        metadata={
            "help": "target value that parts the two sides, in deviations where it is normalised"
        },
    )
    factor: float = field(
        default=0.1, metadata={"help": "factor of the loss on one side of the threshold"}
    )
    below: bool = field(
        default=True,
        metadata={"help": "whether that side is below the threshold, or at and above it"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 0:
            raise ConfigError(f"factor is {self.factor}; it must be 0 or more.")
