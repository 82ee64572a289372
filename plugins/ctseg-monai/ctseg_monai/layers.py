"""Normalisation and activation as options, in the form that MONAI's networks take. Imports neither torch nor MONAI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ctseg.errors import ConfigError

Zyx = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Options that the convolutional networks share."""

    norm: Literal["instance", "batch", "group"] = field(
        default="instance", metadata={"help": "instance, batch or group"}
    )
    norm_affine: bool = field(
        default=True, metadata={"help": "whether the normalisation has weights"}
    )
    norm_groups: int = field(default=8, metadata={"help": "groups of the norm `group`"})
    activation: Literal["relu", "leakyrelu", "prelu", "elu", "gelu", "swish", "mish"] = field(
        default="leakyrelu",
        metadata={"help": "relu, leakyrelu, prelu, elu, gelu, swish or mish"},
    )
    slope: float = field(default=0.01, metadata={"help": "negative slope of leakyrelu"})
    dropout: float = field(default=0.0, metadata={"help": "probability of dropout, 0 to below 1"})

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}.", hint="Use 0 to below 1")
        if self.norm_groups < 1:
            raise ConfigError(f"norm_groups is {self.norm_groups}; it must be at least 1.")

    @property
    def monai_norm(self) -> tuple[str, dict[str, Any]]:
        options: dict[str, Any] = {"affine": self.norm_affine}
        if self.norm == "group":
            options["num_groups"] = self.norm_groups
        return self.norm, options

    @property
    def monai_activation(self) -> tuple[str, dict[str, Any]]:
        options = {"negative_slope": self.slope} if self.activation == "leakyrelu" else {}
        return self.activation, options


def product(strides: tuple[Zyx, ...]) -> Zyx:
    """The factor between the finest and the coarsest level."""
    z = y = x = 1
    for a, b, c in strides:
        z, y, x = z * a, y * b, x * c
    return z, y, x


def halvings(patch_zyx: Zyx, levels: int, least: int = 4) -> tuple[Zyx, ...]:
    """Strides of the levels below the first: an axis is halved while at least `least` voxels remain."""
    strides: list[Zyx] = []
    sizes = list(patch_zyx)
    for _ in range(levels - 1):
        z, y, x = (2 if size // 2 >= least else 1 for size in sizes)
        if (z, y, x) == (1, 1, 1):
            break
        strides.append((z, y, x))
        sizes = [size // stride for size, stride in zip(sizes, (z, y, x), strict=True)]
    return tuple(strides) or ((1, 1, 1),)


def check_levels(owner: str, count: int, strides: tuple[Zyx, ...]) -> None:
    """Reject strides that do not belong to that many levels.

    Raises:
        ConfigError: other numbers of levels and strides, or a stride below 1.
    """
    if count < 2 or len(strides) != count - 1:
        raise ConfigError(
            f"{owner} has {count} levels and strides for {len(strides) + 1}.",
            hint="Each level but the first has a stride, and there are at least two levels",
        )
    if min(min(stride) for stride in strides) < 1:
        raise ConfigError(f"Strides are at least 1, not {strides}.")
