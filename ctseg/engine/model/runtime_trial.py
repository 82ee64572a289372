"""Passes of a network in one runtime, timed and compared with PyTorch's float32."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd

from ctseg.engine.model.runtime import Runtime
from ctseg.nets.cost import forward_flops

LOGITS = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}
"""Largest deviation of logits from PyTorch's float32, relative to their root mean square."""
GRADIENTS = {"fp32": 1e-2, "bf16": 0.3, "fp16": 0.3}
"""The same for the gradients of all weights."""
ENOUGH = 0.3
"""Seconds of timed passes of a candidate; it makes two at least."""
HOPELESS = 1.6
"""A candidate whose first pass takes this much longer than the fastest makes no other."""


class Trial:
    """Passes of a copy of the network in one runtime."""

    def __init__(
        self, network: torch.nn.Module, runtime: Runtime, shape: Sequence[int], *, training: bool
    ) -> None:
        self.runtime, self.training, self.first, self.passes = runtime, training, math.inf, 0
        self.net = runtime.place(copy.deepcopy(network)).train(training)
        for module in self.net.modules():
            if isinstance(module, _DropoutNd):  # what is dropped depends on the memory layout
                module.eval()
        self.x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))

    def __call__(self) -> list[torch.Tensor]:
        """A pass; its logits of each level and, in training, all gradients as one vector."""
        torch.manual_seed(0)
        self._wait()
        begun = time.perf_counter()
        for parameter in self.net.parameters():
            parameter.grad = None
        with torch.set_grad_enabled(self.training):
            with self.runtime.autocast():
                output: Any = self.net(self.runtime.tensor(self.x))
            levels = [output] if isinstance(output, torch.Tensor) else list(output)
            if self.training:
                with self.runtime.kernels():
                    self._loss(levels).backward()  # type: ignore[no-untyped-call]
        self._wait()
        self.first, self.passes = time.perf_counter() - begun, self.passes + 1
        results = [level.detach().float().contiguous() for level in levels]
        if self.training:
            grads = [p.grad for p in self.net.parameters() if p.grad is not None]
            results.append(torch.cat([grad.float().contiguous().flatten() for grad in grads]))
        return results

    @staticmethod
    def _loss(levels: list[Any]) -> torch.Tensor:
        """Mean squares: smooth, so that gradients do not cancel out, and large enough for float16."""
        return torch.stack([100 * level.float().square().mean() for level in levels]).sum()

    def difference(self, expected: list[torch.Tensor], got: list[torch.Tensor]) -> str | None:
        """How far results are off, in words; None where they agree."""
        precision = self.runtime.precision
        bounds = [LOGITS[precision]] * len(expected)
        if self.training:
            bounds[-1] = GRADIENTS[precision]
        for one, other, bound in zip(expected, got, bounds, strict=True):
            off = float((one - other).norm() / one.norm().clamp_min(1e-30))
            if not off <= bound:  # NaN, too
                return f"results are off by {off:.3g} of their size, {bound:g} at most is accepted"
        return None

    def seconds(self, best: float) -> float:
        """Seconds of the fastest pass; few passes where another candidate is far ahead."""
        times = [self.first]
        if self.first < HOPELESS * best:
            while len(times) < 3 or (sum(times[1:]) < ENOUGH and len(times) < 20):
                self()
                times.append(self.first)
        return min(times[1:] or times)

    def _wait(self) -> None:
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)


@contextlib.contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave torch's generators as they are."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def hooked(network: torch.nn.Module) -> bool:
    """Whether something listens to a network's passes."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def flops_of(network: torch.nn.Module, shape: Sequence[int]) -> float:
    """Floating-point operations of a forward pass; infinite where they cannot be counted."""
    try:
        return forward_flops(
            copy.deepcopy(network).to("meta").eval(), torch.empty(tuple(shape), device="meta")
        )
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
        return math.inf
