"""Sums over a batch whose samples are shared out over several processes.

Each process computes the loss of its own samples, and the gradients are averaged. That is the gradient of the whole
batch for any mean over samples or voxels. Where samples depend on each other in another way (one Dice over the batch,
a mean with weights), a loss passes its sums through `totals`: then its value is that of the whole batch, and so is the
averaged gradient. In a single process nothing is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

_processes = 1


@contextlib.contextmanager
def shared_batch(processes: int) -> Iterator[None]:
    """A context in which losses see the batch of all processes of torch's default group.

    All processes must compute the same losses in the same order.
    """
    global _processes
    before, _processes = _processes, processes
    try:
        yield
    finally:
        _processes = before


class _Total(torch.autograd.Function):
    """The sum over all processes; each of them computes the same loss from it, so its gradient counts that often."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        ctx.processes = _processes
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient * ctx.processes


def totals(*sums: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sums over own samples, added up over all processes; of the same types and shapes in each."""
    if _processes == 1:
        return sums
    flat: torch.Tensor = _Total.apply(torch.cat([one.reshape(-1) for one in sums]))  # type: ignore[no-untyped-call]
    parts = torch.split(flat, [one.numel() for one in sums])
    return tuple(part.view_as(one) for part, one in zip(parts, sums, strict=True))


def everywhere(values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The values [N] of all processes in their order, without gradients, and where the own ones begin."""
    values = values.detach()
    if _processes == 1:
        return values, 0
    parts = [torch.empty_like(values) for _ in range(_processes)]
    torch.distributed.all_gather(parts, values)
    return torch.cat(parts), torch.distributed.get_rank() * values.numel()
