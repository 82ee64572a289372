"""The losses in the box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ctseg.hookspecs import hookimpl
from ctseg.losses.config import BCEDiceConfig, CrossEntropyConfig, DiceCEConfig, DiceConfig
from ctseg.specs import LossSpec

if TYPE_CHECKING:
    import torch


def _ce(config: CrossEntropyConfig) -> Callable[..., torch.Tensor]:
    from ctseg.losses.cross_entropy import ce
    from ctseg.losses.modules import Loss

    return Loss(ce, config)


def _bce(config: CrossEntropyConfig) -> Callable[..., torch.Tensor]:
    from ctseg.losses.cross_entropy import bce
    from ctseg.losses.modules import Loss

    return Loss(bce, config)


def _dice(config: DiceConfig) -> Callable[..., torch.Tensor]:
    from ctseg.losses.dice import dice
    from ctseg.losses.modules import Loss

    return Loss(dice, config)


def _dice_ce(config: DiceCEConfig) -> Callable[..., torch.Tensor]:
    from ctseg.losses.combined import dice_ce
    from ctseg.losses.modules import Loss

    return Loss(dice_ce, config)


def _bce_dice(config: BCEDiceConfig) -> Callable[..., torch.Tensor]:
    from ctseg.losses.combined import bce_dice
    from ctseg.losses.modules import Loss

    return Loss(bce_dice, config)


@hookimpl
def ctseg_losses() -> Sequence[LossSpec]:
    """Cross-entropy, Dice and their sums."""
    return [
        LossSpec(
            name="ce",
            build=_ce,
            config=CrossEntropyConfig,
            tasks=frozenset({"classes"}),
            summary="softmax cross-entropy",
        ),
        LossSpec(
            name="bce",
            build=_bce,
            config=CrossEntropyConfig,
            tasks=frozenset({"channels"}),
            summary="binary cross-entropy of independent channels",
        ),
        LossSpec(
            name="dice",
            build=_dice,
            config=DiceConfig,
            tasks=frozenset({"classes", "channels"}),
            summary="soft Dice, linear or squared denominator",
            reference="Milletari et al., V-Net, 3DV 2016; Drozdzal et al., DLMIA 2016",
        ),
        LossSpec(
            name="dice_ce",
            build=_dice_ce,
            config=DiceCEConfig,
            tasks=frozenset({"classes"}),
            summary="soft Dice plus softmax cross-entropy, sharing one softmax",
            reference="Isensee et al., nnU-Net, Nature Methods 18 (2021)",
        ),
        LossSpec(
            name="bce_dice",
            build=_bce_dice,
            config=BCEDiceConfig,
            tasks=frozenset({"channels"}),
            summary="binary cross-entropy plus soft Dice of independent channels",
            reference="Wolny et al., pytorch-3dunet, eLife 2020",
        ),
    ]
