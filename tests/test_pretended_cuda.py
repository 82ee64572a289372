"""The pretended card refuses what a card refuses, and counts what waits for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.pretended_cuda import pretended_cuda

MIXED = "same device, but found cpu and cuda:0"


@pytest.fixture
def card(monkeypatch):
    with pretended_cuda(monkeypatch, count=2, capacity=2**16) as card:
        yield card


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: x + torch.ones(3, 4), RuntimeError, MIXED),
        (lambda x: torch.cat([x, torch.ones(1, 4)]), RuntimeError, MIXED),
        (lambda x: torch.nn.Linear(4, 2)(x), RuntimeError, MIXED),
        (lambda x: torch.where(x > 0, x, torch.ones(3, 4)), RuntimeError, MIXED),
        (lambda x: x.add_(torch.ones(3, 4)), RuntimeError, MIXED),
        (lambda x: torch.add(x, x, out=torch.empty(3, 4)), RuntimeError, MIXED),
        (lambda x: x.index_select(0, torch.tensor([0])), RuntimeError, MIXED),
        (lambda x: x + x.to("cuda:1"), RuntimeError, "found cuda:0 and cuda:1"),
        (lambda x: x.numpy(), TypeError, "can't convert cuda:0"),
        (lambda x: np.asarray(x), TypeError, "can't convert cuda:0"),
        (lambda x: x.normal_(generator=torch.Generator()), RuntimeError, "generator"),
        (lambda x: x.repeat(10000, 1), torch.OutOfMemoryError, "out of memory"),
    ],
)
def test_what_a_card_refuses(card, call, error, words):
    with pytest.raises(error, match=words):
        call(torch.randn(3, 4, device="cuda"))


def test_what_a_card_takes(card):
    x = torch.randn(3, 4, device="cuda")
    for y in (
        x + 1, x + torch.tensor(1.0), x[torch.tensor([0])], x.T, x[:, 1:], torch.zeros_like(x),
        x.half(), x.new_zeros(3), torch.empty(3, 4, device="cuda").copy_(torch.ones(3, 4)),
        torch.nn.Linear(4, 2).to("cuda")(x), torch.randn(2, device="cuda", generator=torch.Generator("cuda")),
    ):  # fmt: skip
        assert y.device == torch.device("cuda:0") and y.is_cuda
    assert torch.zeros_like(x, device="cpu").device.type == x.cpu().device.type == "cpu"
    assert torch.equal(x.cpu(), x.to("cpu"))


def test_gradients_and_updates_stay_there(card):
    net = torch.nn.Linear(4, 2).to("cuda")
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(3, 4, device="cuda")).square().mean().backward()
    assert net.weight.grad is not None and net.weight.grad.is_cuda
    optimizer.step()
    assert net.weight.is_cuda and net.weight.data.is_cuda


def test_waits_are_counted(card):
    x = torch.randn(3, 4, device="cuda")
    for call in (float, bool, lambda t: t.item(), lambda t: t.cpu(), lambda t: t.to("cpu")):
        before = sum(card.waits.values())
        call(x.sum())
        assert sum(card.waits.values()) == before + 1
    before = sum(card.waits.values())
    float(torch.ones(3).sum())
    x.sum().to(torch.float16)
    assert sum(card.waits.values()) == before


def test_memory_is_what_is_held(card):
    x = torch.zeros(100, device="cuda")
    assert card.allocated() == torch.cuda.memory_allocated() == 400
    y = x[:50]  # a view takes none
    assert card.allocated() == 400
    del x, y
    assert card.allocated() == 0 and card.peak == 400
