"""MONAI's Tversky loss with ctseg's voxel weights and masks."""

from __future__ import annotations

import torch
from monai.losses import TverskyLoss
from torch import nn
from torch.nn import functional

from ctseg_monai.options import TverskyConfig


class Tversky(nn.Module):
    """1 - TP / (TP + alpha FP + beta FN) of soft counts, averaged over channels.

    Probabilities and target are multiplied by the voxel weight before MONAI counts them. With its `soft_label` counts,
    which are sums of p, t and |p - t|, this equals weighting each voxel's count.
    """

    def __init__(self, config: TverskyConfig) -> None:
        super().__init__()
        self.include_background = config.include_background
        self.loss = TverskyLoss(
            include_background=True,
            alpha=config.alpha,
            beta=config.beta,
            batch=config.batch,
            smooth_nr=config.smooth,
            smooth_dr=config.smooth,
            soft_label=True,
        )

    def forward(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        *,
        weight: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of logits [B, C, Z, Y, X]; see `ctseg.specs.LossSpec`."""
        if logits.dtype != torch.float64:
            logits = logits.float()
        if mask is not None:  # the target may hold anything outside the mask
            inside = mask.bool() if target.ndim == mask.ndim else mask.bool()[:, None]
            target = target.masked_fill(~inside, 0)
        if target.is_floating_point():
            p, t = logits.sigmoid(), target.to(logits.dtype)
        else:
            p = logits.softmax(1)
            t = functional.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
            if not self.include_background and logits.shape[1] > 1:
                p, t = p[:, 1:], t[:, 1:]
        for factor in (weight, mask):
            if factor is not None:
                each = factor.to(logits.dtype)[:, None]
                p, t = p * each, t * each
        value: torch.Tensor = self.loss(p, t)
        return value
