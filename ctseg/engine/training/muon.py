"""Muon: momentum, orthogonalised for each weight that is a matrix; AdamW for all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adamw import adamw

COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Of the polynomials a s + b s^3 + c s^5, which bring singular values near 1 (Keller Jordan's modded-nanogpt)."""
RMS = 0.2
"""Root mean square of an update of AdamW, which that of a matrix gets too (Liu et al. 2025, arXiv 2502.16982)."""
SMALLEST, LONGEST = 4, 128
"""Rows of a matrix at least, and its columns over its rows at most."""
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    The kernel of a convolution is the matrix of its first axis against all others. Biases, norms, depthwise kernels,
    those of a single input channel and outputs of few labels are no matrices; they get AdamW with the same learning
    rate. It computes in float32 on every device, so no processor needs bfloat16.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate, as for AdamW.
        weight_decay: decoupled, times the learning rate.
        momentum: of matrices.
        betas, eps: of AdamW.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 2e-3, weight_decay: float = 0.0, momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8,
    ) -> None:  # fmt: skip
        settings = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps,
        }  # fmt: skip
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step with the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [p for p in group["params"] if p.grad is not None]
            for parameter in given:
                if is_matrix(parameter):
                    self._matrix_step(parameter, group)
            self._adamw_step([p for p in given if not is_matrix(p)], group)
        return loss

    def _matrix_step(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: torch.Tensor = state["momentum_buffer"]
        momentum.lerp_(parameter.grad, 1 - group["momentum"])
        matrix = momentum.flatten(1)
        scale = RMS * math.sqrt(max(matrix.shape))
        update = orthogonal(matrix).reshape(parameter.shape)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)

    def _adamw_step(self, parameters: list[torch.Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[p] for p in parameters]
        first, second = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            amsgrad=False, beta1=first, beta2=second, lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


def is_matrix(parameter: torch.Tensor) -> bool:
    """Whether a parameter is a matrix that an orthogonal one can stand for."""
    if parameter.ndim < 2 or min(parameter.shape[:2]) == 1:
        return False
    rows = parameter.shape[0]
    sides = (rows, parameter.numel() // rows)
    return min(sides) >= SMALLEST and max(sides) <= LONGEST * min(sides)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the orthogonal matrix U V^T of a matrix U S V^T: its singular values come near 1, float32 [M, N].

    The polynomials of Newton and Schulz are made of X X^T alone, which has few rows; only their product is multiplied
    by X. That takes a third of the operations for the wide matrices of convolutions.
    """
    wide = matrix.float()
    if wide.shape[0] > wide.shape[1]:
        return orthogonal(wide.T).T
    wide = wide / wide.norm().clamp_min(TINY)
    square = wide @ wide.T
    product = torch.eye(wide.shape[0], device=wide.device)
    for a, b, c in COEFFICIENTS:
        factor = torch.addmm(square, square, square, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor @ product
        square = factor @ square @ factor
    near: torch.Tensor = product @ wide
    return near
