"""The built-in losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ctseg.hookspecs import hookimpl
from ctseg.specs import LossSpec, TaskKind

if TYPE_CHECKING:
    import torch

SEGMENTATION: tuple[TaskKind, ...] = ("classes", "channels")


def _builder(module: str, name: str) -> Callable[[Any], Callable[..., torch.Tensor]]:
    """A build function that imports the loss's module on first use."""

    def build(config: Any) -> Callable[..., torch.Tensor]:
        import importlib

        from ctseg.losses.modules import Loss

        return Loss(getattr(importlib.import_module(f"ctseg.losses.{module}"), name), config)

    return build


def _spec(
    module: str,
    name: str,
    config: type,
    tasks: Sequence[TaskKind],
    summary: str,
    reference: str = "",
) -> LossSpec:
    return LossSpec(
        name=name,
        build=_builder(module, name),
        config=config,
        tasks=frozenset(tasks),
        summary=summary,
        reference=reference,
    )


@hookimpl
def ctseg_losses() -> Sequence[LossSpec]:
    """Cross-entropies, overlaps, their sums, centrelines and boundaries; differences for regression."""
    from ctseg.losses import config as options  # later: `ctseg --help` needs none of them

    return [
        _spec(
            "cross_entropy", "ce", options.CrossEntropyConfig, ("classes",),
            "softmax cross-entropy",
        ),
        _spec(
            "cross_entropy", "wce", options.CrossEntropyConfig, ("classes",),
            "softmax cross-entropy with larger weights for rarely predicted classes",
            "Sudre et al., DLMIA 2017; Wolny et al., pytorch-3dunet, eLife 2020",
        ),
        _spec(
            "cross_entropy", "bce", options.BCEConfig, ("channels",),
            "binary cross-entropy of independent channels",
        ),
        _spec(
            "dice", "dice", options.DiceConfig, SEGMENTATION,
            "soft Dice, linear or squared denominator",
            "Milletari et al., V-Net, 3DV 2016; Drozdzal et al., DLMIA 2016",
        ),
        _spec(
            "overlap", "generalized_dice", options.GeneralizedDiceConfig, SEGMENTATION,
            "soft Dice over all classes at once, each weighted by 1 / its volume squared",
            "Sudre et al., DLMIA 2017",
        ),
        _spec(
            "combined", "bce_dice", options.BCEDiceConfig, ("channels",),
            "binary cross-entropy plus soft Dice of independent channels",
            "Wolny et al., pytorch-3dunet, eLife 2020",
        ),
        _spec(
            "combined", "dice_ce", options.DiceCEConfig, ("classes",),
            "soft Dice plus softmax cross-entropy, sharing one softmax",
            "Isensee et al., nnU-Net, Nature Methods 18 (2021)",
        ),
        _spec(
            "combined", "dice_topk", options.DiceTopKConfig, ("classes",),
            "soft Dice plus the cross-entropy of the worst voxels",
            "Isensee et al., nnU-Net, Nature Methods 18 (2021)",
        ),
        _spec(
            "overlap", "tversky", options.TverskyConfig, SEGMENTATION,
            "soft Dice with weights for false positives and false negatives",
            "Salehi et al., MLMI 2017",
        ),
        _spec(
            "overlap", "focal_tversky", options.FocalTverskyConfig, SEGMENTATION,
            "Tversky loss to a power, with a large gradient for nearly correct classes",
            "Abraham and Khan, ISBI 2019",
        ),
        _spec(
            "focal", "focal", options.FocalConfig, SEGMENTATION,
            "cross-entropy in which easy voxels count little",
            "Lin et al., ICCV 2017",
        ),
        _spec(
            "cldice", "cldice", options.CLDiceConfig, SEGMENTATION,
            "soft Dice plus overlap of soft skeletons, for vessels and fibres",
            "Shit et al., CVPR 2021",
        ),
        _spec(
            "boundary", "boundary", options.BoundaryConfig, SEGMENTATION,
            "generalised Dice plus probabilities weighted by distance to the true surface",
            "Kervadec et al., MIDL 2019",
        ),
        _spec(
            "regression", "mse", options.CrossEntropyConfig, ("regression",),
            "mean squared difference",
        ),
        _spec(
            "regression", "l1", options.CrossEntropyConfig, ("regression",),
            "mean absolute difference",
        ),
        _spec(
            "regression", "smooth_l1", options.SmoothL1Config, ("regression",),
            "squared where the difference is small, absolute beyond",
            "Girshick, Fast R-CNN, ICCV 2015",
        ),
        _spec(
            "regression", "weighted_smooth_l1", options.WeightedSmoothL1Config, ("regression",),
            "smooth_l1 with a factor on one side of a threshold of the target",
            "Wolny et al., pytorch-3dunet, eLife 2020",
        ),
    ]  # fmt: skip
