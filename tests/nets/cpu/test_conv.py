"""bfloat16 convolutions of tiny volumes against float32, which oneDNN's kernels get wrong by themselves."""

from __future__ import annotations

import contextlib
import copy
import itertools

import pytest
import torch
from torch import nn

from ctseg.engine.model.runtime import Runtime
from ctseg.nets.cpu import autocast, conv, im2col, winograd

BF16 = Runtime(torch.device("cpu"), "bf16", True, "test")


def gradients(net: nn.Module, x: torch.Tensor, half: bool) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    with BF16.autocast() if half else contextlib.nullcontext():
        y = net(x)
    y.float().square().mean().backward()
    assert x.grad is not None
    return [y.detach().float(), x.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("kernel", [1, 3, 5, (1, 3, 3), (3, 1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_in_bfloat16_are_those_of_float32(kernel, stride):
    torch.manual_seed(0)
    padding = tuple(k // 2 for k in kernel) if isinstance(kernel, tuple) else kernel // 2
    plain = nn.Conv3d(8, 16, kernel, stride, padding)
    placed = BF16.place(copy.deepcopy(plain))
    assert list(placed.state_dict()) == list(plain.state_dict())
    for size in itertools.product((1, 2, 3, 4), (2, 5), (1, 2, 4)):
        x = torch.randn(2, 8, *size)
        plain.zero_grad()
        placed.zero_grad()
        exact = gradients(plain, x, half=False)
        for one, two in zip(exact, gradients(placed, BF16.tensor(x), half=True), strict=True):
            assert float((one - two).norm()) <= 0.03 * float(one.norm()) + 1e-6, (size, kernel)


def test_only_mixed_precision_and_plain_convolutions_are_guarded(monkeypatch):
    class Own(nn.Conv3d):
        pass

    guarded = []
    monkeypatch.setattr(conv, "_too_small", lambda layer, x: guarded.append(layer) or True)
    plain, own = nn.Conv3d(1, 2, 3), Own(2, 2, 3)
    net, x = nn.Sequential(plain, own), torch.randn(1, 1, 8, 8, 8)
    fp32 = Runtime(torch.device("cpu"), "fp32", False, "test")
    with fp32.autocast():
        fp32.place(net)(x)
    BF16.place(net)(x)
    with torch.autocast("cpu", torch.bfloat16):  # somebody else's
        net(x)
    assert not guarded
    with BF16.autocast():
        net(x)
        with torch.autocast("cpu", enabled=False):
            net(x)
    assert guarded == [plain]


def test_the_result_keeps_the_type_of_mixed_precision():
    net = BF16.place(nn.Conv3d(1, 2, 3, padding=1))
    with BF16.autocast():
        assert net(torch.zeros(1, 1, 2, 4, 4)).dtype == torch.bfloat16
        assert net(torch.zeros(1, 1, 8, 8, 8)).dtype == torch.bfloat16
    assert net(torch.zeros(1, 1, 2, 4, 4)).dtype == torch.float32


def test_large_convolutions_take_fewer_products(monkeypatch):
    """In mixed precision only, values near those of float32; the plain ones are exactly PyTorch's."""
    monkeypatch.setattr(autocast, "has_amx", lambda: False)
    taken = []
    real = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *a: taken.append(1) or real(*a))
    torch.manual_seed(1)
    for plain, fewer in (
        (nn.Conv3d(1, 32, 3, padding=1), 0),
        (nn.Conv3d(32, 32, 3, padding=1), 1),
        (nn.Conv3d(32, 32, 3, padding=1, padding_mode="reflect"), 0),
        (nn.Conv3d(32, 32, 3, 2, 1), 0),
    ):
        taken.clear()
        placed = BF16.place(copy.deepcopy(plain))
        x = torch.randn(2, plain.in_channels, 12, 16, 12)
        exact = plain(x).detach()
        with BF16.autocast():
            y = placed(BF16.tensor(x)).detach()
        assert len(taken) == fewer
        assert float((y.float() - exact).norm()) < 0.02 * float(exact.norm())
        torch.testing.assert_close(placed(x).detach(), exact, atol=1e-5, rtol=1e-5)
        assert len(taken) == fewer


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"dilation": 2},
        {"padding": "same"},
        {"padding_mode": "circular"},
        {"kernel_size": 2},
    ],
)
def test_unusual_convolutions_are_pytorchs(monkeypatch, options):
    def never(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setattr(autocast, "has_amx", lambda: False)
    monkeypatch.setattr(winograd, "convolve", never)
    monkeypatch.setattr(im2col, "convolve", never)
    torch.manual_seed(2)
    plain = nn.Conv3d(64, 64, **({"kernel_size": 3, "padding": 2} | options))
    x = torch.randn(1, 64, 12, 12, 12)
    with BF16.autocast():
        y = BF16.place(copy.deepcopy(plain))(BF16.tensor(x)).detach()
    exact = plain(x).detach()
    assert float((y.float() - exact).norm()) < 0.01 * float(exact.norm())


@pytest.mark.parametrize(
    ("channels", "stride", "size"),
    [((128, 256), (1, 2, 2), (5, 14, 10)), ((256, 128), 1, (5, 7, 5))],
)
def test_the_kernels_of_small_volumes_get_their_gradient_as_a_product(
    monkeypatch, channels, stride, size
):
    """In training only; near float32, with whatever stride."""
    monkeypatch.setattr(autocast, "has_amx", lambda: False)
    taken = []
    real = im2col.convolve
    monkeypatch.setattr(im2col, "convolve", lambda *a, **k: taken.append(1) or real(*a, **k))
    torch.manual_seed(3)
    plain = nn.Conv3d(*channels, 3, stride, 1)
    placed = BF16.place(copy.deepcopy(plain))
    x = torch.randn(2, channels[0], *size)
    exact = gradients(plain, x, half=False)
    found = gradients(placed, BF16.tensor(x), half=True)
    assert len(taken) == 1
    for one, two in zip(exact, found, strict=True):
        assert two.dtype == torch.float32
        assert float((one - two).norm()) < 0.02 * float(one.norm())
    with torch.inference_mode(), BF16.autocast():
        placed(BF16.tensor(x))
    assert len(taken) == 1
