"""Losses of a batch that two processes share equal those of one process that has the whole batch."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import torch

from ctseg import plugins
from ctseg.engine.model.create import create_loss
from ctseg.losses import shared_batch
from ctseg.losses.deep import DeepSupervision


class TwoThreads:
    """Stands in for the two processes of a group: each thread is one."""

    def __init__(self) -> None:
        self.barrier, self.place = threading.Barrier(2, timeout=60), threading.local()
        self.held: list[torch.Tensor] = [torch.empty(0)] * 2

    def _exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.held[self.place.rank] = tensor.detach().clone()
        self.barrier.wait()
        both = list(self.held)
        self.barrier.wait()
        return both

    def all_reduce(self, tensor: torch.Tensor) -> None:
        one, two = self._exchange(tensor)
        tensor.copy_(one + two)

    def all_gather(self, parts: list[torch.Tensor], tensor: torch.Tensor) -> None:
        for part, found in zip(parts, self._exchange(tensor), strict=True):
            part.copy_(found)

    def get_rank(self) -> int:
        return int(self.place.rank)

    def run(self, work: Any) -> list[Any]:
        """What `work(rank)` returns in each."""
        found: dict[int, Any] = {}

        def one(rank: int) -> None:
            self.place.rank = rank
            try:
                found[rank] = work(rank)
            except BaseException as error:
                found[rank] = error
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for value in found.values():
            if isinstance(value, BaseException):
                raise value
        return [found[rank] for rank in range(2)]


def built_in() -> list[Any]:
    specs = [plugins.loss(name) for name in plugins.names("loss")]
    cases = []
    for spec in specs:
        if plugins.registry().get("loss", spec.name).plugin.package != "ctseg":
            continue
        options: list[dict[str, Any]] = [{}]
        known = {field.name for field in dataclasses.fields(spec.config)}
        if "batch" in known:
            options.append({"batch": not spec.config().batch})
        if "reduction" in known:
            options.append({"reduction": "sum"})
        if "k" in known:
            options.append({"k": 35.0})
        cases += [
            pytest.param(spec.name, kind, one, id=f"{spec.name}-{kind}-{one}")
            for kind in sorted(spec.tasks)
            for one in options
        ]
    return cases


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "kind", "options"), built_in())
def test_two_shares_are_the_whole(monkeypatch, name, kind, options, masked):
    torch.manual_seed(0)
    shape = (4, 3, 4, 6, 6)
    logits = [torch.randn(shape), torch.randn((4, 3, 2, 3, 3))]
    target = torch.randint(0, 3, (4, 4, 6, 6))
    target[2:] = target[2:].clamp_max(1)  # the second share lacks a class
    if kind != "classes":
        target = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    weight = torch.rand(4, 4, 6, 6) if masked else None
    mask = torch.rand(4, 4, 6, 6) > 0.3 if masked else None
    loss = DeepSupervision(create_loss(name, **options))

    def computed(share: slice) -> tuple[torch.Tensor, list[torch.Tensor]]:
        leaves = [level[share].clone().requires_grad_() for level in logits]
        parts = [None if one is None else one[share] for one in (weight, mask)]
        value = loss(tuple(leaves), target[share], weight=parts[0], mask=parts[1])
        value.backward()
        return value.detach(), [leaf.grad for leaf in leaves]  # type: ignore[misc]

    expected, gradients = computed(slice(None))
    pair = TwoThreads()
    for function in ("all_reduce", "all_gather", "get_rank"):
        monkeypatch.setattr(torch.distributed, function, getattr(pair, function))
    with shared_batch.shared_batch(2):
        found = pair.run(lambda rank: computed(slice(2 * rank, 2 * rank + 2)))
    torch.testing.assert_close((found[0][0] + found[1][0]) / 2, expected, rtol=1e-5, atol=1e-6)
    for level, gradient in enumerate(gradients):
        # gradients of processes are averaged
        shares = torch.cat([found[rank][1][level] for rank in range(2)]) / 2
        torch.testing.assert_close(shares, gradient, rtol=1e-4, atol=1e-7)
