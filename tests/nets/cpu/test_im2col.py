"""The gradient of a kernel as one product of matrices, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ctseg.nets.cpu import autocast, im2col


@pytest.fixture(autouse=True)
def bf16_processor(monkeypatch):
    monkeypatch.setattr(autocast, "has_amx", lambda: False)


def tensor(*shape: int, kind: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape).to(kind).contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("wanted", [(1, 1, 1), (0, 1, 0), (1, 0, 1), (0, 0, 1)])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((3, 5, 4), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
        ((6, 5, 7), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
        ((2, 6, 7), (1, 3, 5), (1, 2, 1), (0, 1, 2)),
        ((4, 4, 5), (2, 2, 1), (2, 1, 3), (0, 1, 0)),
    ],
)
def test_values_and_gradients_are_those_of_the_usual_way(
    size, kernel, stride, padding, wanted, memory_format
):
    torch.manual_seed(0)
    leaves = [tensor(2, 4, *size), tensor(3, 4, *kernel), torch.randn(3).double()]
    leaves = [leaf.contiguous(memory_format=memory_format) for leaf in leaves[:2]] + leaves[2:]
    for leaf, on in zip(leaves, wanted, strict=True):
        leaf.requires_grad_(bool(on))
    chosen = [leaf for leaf in leaves if leaf.requires_grad]
    results = []
    for way in (functional.conv3d, im2col.convolve):
        y = way(*leaves, stride=stride, padding=padding)
        weight = torch.arange(y.numel(), dtype=torch.float64).view_as(y).sin()
        results.append((y, *torch.autograd.grad((y * weight).sum(), chosen)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


def test_in_bfloat16_errors_are_those_of_the_usual_way():
    torch.manual_seed(1)
    x, weight = tensor(2, 128, 5, 7, 5, kind=torch.bfloat16), 0.02 * torch.randn(128, 128, 3, 3, 3)
    bias, grad = torch.randn(128), tensor(2, 128, 5, 7, 5)
    found = {}
    for name, way in (
        ("usual", functional.conv3d),
        ("ours", im2col.convolve),
        ("exact", functional.conv3d),
    ):
        exact = name == "exact"
        leaves = [t.double() if exact else t.clone() for t in (x, weight, bias)]
        for leaf in leaves:
            leaf.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            y = way(*leaves, stride=(1, 1, 1), padding=(1, 1, 1))
        found[name] = [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]
    for ours, usual, exact in zip(found["ours"], found["usual"], found["exact"], strict=True):
        assert ours.dtype == usual.dtype
        errors = [float((t.double() - exact).norm() / exact.norm()) for t in (ours, usual)]
        assert errors[0] <= 1.1 * errors[1]


def test_it_is_left_where_it_is_not_faster(monkeypatch):
    x = tensor(2, 128, 4, 6, 5, kind=torch.bfloat16)
    weight = torch.randn(128, 128, 3, 3, 3).bfloat16().requires_grad_()

    def is_faster(x=x, weight=weight, stride=(1, 1, 1), padding=(1, 1, 1)):
        return im2col.is_faster(x, weight, stride=stride, padding=padding)

    assert is_faster()
    assert not is_faster(weight=weight.detach())
    assert not is_faster(weight=weight[:64])
    assert not is_faster(x.float())
    assert not is_faster(x.to("meta"))
    assert not is_faster(x.contiguous())
    large = tensor(2, 128, 8, 12, 10, kind=torch.bfloat16)
    assert not is_faster(large)
    assert is_faster(large, stride=(2, 2, 2))
    with torch.no_grad():
        assert not is_faster()
    monkeypatch.setattr(autocast, "has_amx", lambda: True)
    assert not is_faster()
