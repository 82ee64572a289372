"""Losses as modules: a loss function with fixed options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from torch import nn


class Loss(nn.Module):
    """A loss function whose options are the fields of a config dataclass.

    Args:
        function: `function(logits, target, *, weight, mask, **options) -> scalar`.
        config: the options.
    """

    def __init__(self, function: Callable[..., torch.Tensor], config: Any) -> None:
        super().__init__()
        assert is_dataclass(config)
        self.function = function
        self.options = asdict(config)  # type: ignore[arg-type]

    def forward(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        *,
        weight: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of logits [B, C, Z, Y, X]; see `ctseg.specs.LossSpec`."""
        return self.function(logits, target, weight=weight, mask=mask, **self.options)

    def extra_repr(self) -> str:
        return f"{self.function.__name__}, {self.options}"
