"""Cases in which not every label was drawn: what was not drawn is no background."""

from __future__ import annotations

from collections.abc import Sequence

import torch

LOW = -1e4
"""Logit of an output that has no part: its probability is 0 in float32, and its gradient, too."""


def without_undrawn(
    logits: torch.Tensor | Sequence[torch.Tensor],
    target: torch.Tensor,
    undrawn: Sequence[Sequence[int]],
) -> tuple[torch.Tensor | tuple[torch.Tensor, ...], torch.Tensor]:
    """Logits and target with which any loss leaves out, sample by sample, the outputs that nobody drew.

    Exclusive classes: background and undrawn labels are one class, whose probability is the sum of theirs, so that
    cross-entropy becomes -log of that sum where the map says background (marginal loss, Shi et al., Medical Image
    Analysis 70, 2021). Independent labels: an undrawn one is certainly absent, with a loss and a gradient of 0.

    Args:
        logits: [B, C, Z, Y, X], or several resolutions of them.
        target: int64 [B, Z, Y, X] of classes, the background 0, or float [B, C, Z, Y, X].
        undrawn: for each sample its outputs that were not drawn.
    """
    levels = [logits] if isinstance(logits, torch.Tensor) else list(logits)
    hidden = torch.zeros(levels[0].shape[:2], dtype=torch.bool)
    for row, outputs in enumerate(undrawn):
        hidden[row, list(outputs)] = True
    hidden = hidden.to(target.device)
    if target.is_floating_point():
        target = target.masked_fill(_spread(hidden), 0)
        changed = [level.masked_fill(_spread(hidden), LOW) for level in levels]
    else:
        classes = target.flatten(1)
        target = classes.masked_fill(hidden.gather(1, classes), 0).view_as(target)
        changed = [_merged(level, hidden) for level in levels]
    return changed[0] if isinstance(logits, torch.Tensor) else tuple(changed), target


def _merged(logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Logits whose background has the probability of the hidden classes, too."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    joined = hidden.clone()
    joined[:, 0] = True
    background = logits.masked_fill(~_spread(joined), -torch.inf).logsumexp(1, keepdim=True)
    rest = logits[:, 1:].masked_fill(_spread(hidden[:, 1:]), LOW)
    return torch.cat([background, rest], 1)


def _spread(by_output: torch.Tensor) -> torch.Tensor:
    return by_output[:, :, None, None, None]
