"""The built-in losses as functions that take their options by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import ctseg

Function = Callable[..., torch.Tensor]


def _function(name: str) -> Function:
    def loss(
        logits: torch.Tensor,
        target: torch.Tensor,
        *,
        weight: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        return ctseg.create_loss(name, **options)(logits, target, weight=weight, mask=mask)

    return loss


bce = _function("bce")
bce_dice = _function("bce_dice")
boundary = _function("boundary")
ce = _function("ce")
cldice = _function("cldice")
dice = _function("dice")
dice_ce = _function("dice_ce")
dice_topk = _function("dice_topk")
focal = _function("focal")
focal_tversky = _function("focal_tversky")
generalized_dice = _function("generalized_dice")
l1 = _function("l1")
mse = _function("mse")
smooth_l1 = _function("smooth_l1")
tversky = _function("tversky")
wce = _function("wce")
weighted_smooth_l1 = _function("weighted_smooth_l1")
