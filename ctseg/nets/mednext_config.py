"""Options of MedNeXt, and options from a plan. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal

from ctseg.nets.config import sizes_from_plan
from ctseg.nets.options import LevelOptions
from ctseg.specs import NetworkPlan

Size = Literal["small", "base", "medium", "large"]

SIZES: dict[Size, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "small": ((2,), (2,)),
    "base": ((2,), (2, 3, 4)),
    "medium": ((3, 4), (2, 3, 4)),
    "large": ((3, 4, 8), (3, 4, 8)),
}
"""Blocks, and expansion of their width, at each level; levels below take the last number (table 1 of the paper)."""


@dataclass(frozen=True, kw_only=True)
class MedNeXtConfig(LevelOptions):
    """Options of `mednext`."""

    features: tuple[int, ...] = field(
        default=(32, 64, 128, 256, 512),
        metadata={
            "help": "width of each level, from full resolution down; its length is the depth"
        },
    )
    size: Size = field(
        default="small",
        metadata={
            "help": "small, base, medium or large: blocks and expansions of the paper's S, B, M and L"
        },
    )
    blocks_per_level: tuple[int, ...] = field(
        default=(),
        metadata={"help": "blocks at each level, in encoder and decoder; empty: those of the size"},
    )
    expansions: tuple[int, ...] = field(
        default=(),
        metadata={
            "help": "how much wider the middle of a block is, at each level; empty: those of the size"
        },
    )
    deep_supervision: bool = field(
        default=False, metadata={"help": "in training, predict at every level of the decoder"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("blocks_per_level", len(self.features))
        self._check_counts("expansions", len(self.features))

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of blocks of each level."""
        return self.blocks_per_level or _padded(SIZES[self.size][0], len(self.features))

    @property
    def widening(self) -> tuple[int, ...]:
        """The expansion of the blocks of each level."""
        return self.expansions or _padded(SIZES[self.size][1], len(self.features))


def _padded(values: tuple[int, ...], levels: int) -> tuple[int, ...]:
    return (*values, *repeat(values[-1], levels))[:levels]


def mednext_from_plan(plan: NetworkPlan) -> MedNeXtConfig:
    """Depth, widths, kernels and strides of `mednext` for a patch and a spacing."""
    features, kernels, strides = sizes_from_plan(plan)
    return MedNeXtConfig(features=features, kernels_zyx=kernels, strides_zyx=strides)
