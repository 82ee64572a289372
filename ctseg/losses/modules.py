"""Losses as modules: a loss function with its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Loss(nn.Module):
    """A loss function with its options.

    Args:
        function: `function(logits, target, config, *, weight, mask) -> scalar`.
        config: the options, a dataclass.
    """

    def __init__(self, function: Callable[..., torch.Tensor], config: Any) -> None:
        super().__init__()
        self.function = function
        self.config = config

    def forward(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        *,
        weight: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of logits [B, C, Z, Y, X]; see `ctseg.specs.LossSpec`."""
        return self.function(logits, target, self.config, weight=weight, mask=mask)

    def extra_repr(self) -> str:
        return f"{self.function.__name__}, {self.config}"
