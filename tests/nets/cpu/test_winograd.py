"""Convolutions with fewer products against PyTorch's own."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ctseg.nets.cpu import autocast, use_cpu_kernels, winograd, winograd_fours

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
USUAL = {4: functional.conv2d, 5: functional.conv3d}


@pytest.fixture(autouse=True)
def bf16_processor(monkeypatch):
    monkeypatch.setattr(autocast, "has_amx", lambda: False)


def tensor(*shape: int, kind: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape).to(kind).contiguous(memory_format=LAYOUTS[len(shape)])


def usual(x, weight, bias):
    return USUAL[x.ndim](x, weight, bias, padding=[k // 2 for k in weight.shape[2:]])


def relative(one: torch.Tensor, exact: torch.Tensor) -> float:
    return float((one.detach().double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("slab", [1, 2000, 1 << 30])
@pytest.mark.parametrize(
    ("size", "kernel"),
    [
        ((8, 5, 6), (3, 3, 3)),
        ((5, 8, 7), (3, 3, 3)),  # the first axis is odd
        ((6, 8, 4), (1, 3, 3)),
        ((4, 6, 5), (3, 5, 1)),
        ((10, 9), (3, 3)),
    ],
)
def test_values_and_gradients_are_those_of_the_usual_way(monkeypatch, size, kernel, slab):
    torch.manual_seed(0)
    monkeypatch.setattr(winograd, "SLAB", slab)
    leaves = [tensor(2, 4, *size), torch.randn(3, 4, *kernel).double(), torch.randn(3).double()]
    for leaf in leaves:
        leaf.requires_grad_()
    results = []
    for way in (usual, winograd.convolve):
        y = way(*leaves)
        weight = torch.arange(y.numel(), dtype=torch.float64).view_as(y).sin()
        results.append((y, *torch.autograd.grad((y * weight).sum(), leaves)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_only_what_is_asked_for_gets_a_gradient(wanted, bias):
    x, weight, b = tensor(1, 2, 4, 4, 4), torch.randn(2, 2, 3, 3, 3).double(), None
    if bias:
        b = torch.randn(2, dtype=torch.float64)
    leaves = [t for t in (x, weight, b) if t is not None]
    for leaf, on in zip(leaves, wanted, strict=False):
        leaf.requires_grad_(bool(on))
    chosen = [leaf for leaf in leaves if leaf.requires_grad]
    if not chosen:
        assert not winograd.convolve(x, weight, b).requires_grad
        return
    found = torch.autograd.grad(winograd.convolve(x, weight, b).square().sum(), chosen)
    exact = torch.autograd.grad(usual(x, weight, b).square().sum(), chosen)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other)


class RoundedOnce(TorchDispatchMode):
    """Convolutions in bfloat16 as AVX512-BF16 computes them, on any processor: sums in float32, rounded at the end."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        of_convolutions = (
            torch.ops.aten.convolution.default,
            torch.ops.aten.convolution_backward.default,
        )
        if func not in of_convolutions or args[0].dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        args = [arg.float() if isinstance(arg, torch.Tensor) else arg for arg in args]
        sums = func(*args, **(kwargs or {}))
        if isinstance(sums, torch.Tensor):
            return sums.bfloat16()
        return tuple(None if each is None else each.bfloat16() for each in sums)


def errors_in_bfloat16(smooth: bool, arithmetic) -> dict[str, list[float]]:
    """Of values, of what comes in and of the kernel, by the usual way and ours; `arithmetic` makes a context."""
    torch.manual_seed(1)
    x, grad = torch.randn(1, 32, 16, 24, 16), torch.randn(1, 32, 16, 24, 16)
    if smooth:
        x = 8 * functional.avg_pool3d(x, 5, 1, 2) + 3
        grad = functional.avg_pool3d(grad, 3, 1, 1)
    x, grad = (
        t.bfloat16().contiguous(memory_format=torch.channels_last_3d)
        for t in (functional.leaky_relu(x, 0.01), grad)
    )
    weight = 0.05 * torch.randn(32, 32, 3, 3, 3)
    leaves = [x.double().requires_grad_(), weight.double().requires_grad_()]
    y = usual(*leaves, None)
    exact = [y.detach(), *torch.autograd.grad(y, leaves, grad.double())]
    errors = {}
    for name, way in (("usual", usual), ("ours", winograd.convolve)):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        with torch.autocast("cpu", torch.bfloat16), arithmetic():
            y = way(*leaves, None)
            found = [y.detach(), *torch.autograd.grad(y, leaves, grad)]
        assert y.dtype == torch.bfloat16
        errors[name] = [relative(one, true) for one, true in zip(found, exact, strict=True)]
    return errors


@pytest.mark.parametrize("smooth", [False, True])
def test_in_bfloat16_errors_are_at_most_2_5_times_those_of_the_usual_way(smooth):
    """Smooth volumes with a mean of their own, as scans have, too."""
    errors = errors_in_bfloat16(smooth, RoundedOnce)
    for ours, theirs in zip(errors["ours"], errors["usual"], strict=True):
        assert ours < 2.5 * theirs
        assert ours < 0.006  # 2^-8 is the distance of neighbouring numbers


@pytest.mark.parametrize("smooth", [False, True])
def test_on_this_processor_errors_are_of_the_size_of_its_own(smooth):
    """Some processors round bfloat16 more often on the way, in gradients most of all."""
    errors = errors_in_bfloat16(smooth, contextlib.nullcontext)
    assert max(errors["ours"]) < 2.5 * max(errors["usual"])


def test_a_sample_gives_the_same_whatever_its_neighbours():
    torch.manual_seed(2)
    x = tensor(3, 32, 12, 10, 10, kind=torch.bfloat16)
    weight = 0.05 * torch.randn(32, 32, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        together = winograd.convolve(x, weight, None)
        alone = winograd.convolve(x[1:2].contiguous(memory_format=LAYOUTS[5]), weight, None)
    assert torch.equal(together[1:2], alone)


def test_what_is_mixed_is_kept_for_the_kernels_gradient_only_and_where_it_is_little(monkeypatch):
    x, weight = tensor(1, 2, 8, 6, 6), torch.randn(3, 2, 3, 3, 3).double().requires_grad_()

    def kept() -> list[tuple[int, ...]]:
        found = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
            winograd.convolve(x.requires_grad_(), weight, None)
        return [tuple(t.shape) for t in found if t.shape[1:] != (2, 1, 3, 3)]

    assert kept() == [(1, 2, 4, 6, 6)] * 4
    monkeypatch.setattr(winograd, "SLAB", 1)
    assert kept() == [(1, 2, 8, 6, 6)]
    monkeypatch.setattr(winograd, "SLAB", 1 << 30)
    weight.requires_grad_(False)
    assert kept() == [(1, 2, 8, 6, 6)]
    with torch.no_grad():
        assert kept() == []


def test_weights_in_bfloat16_need_no_mixed_precision():
    x = tensor(1, 32, 8, 12, 12, kind=torch.bfloat16)
    weight = (0.05 * torch.randn(32, 32, 3, 3, 3)).bfloat16().requires_grad_()
    assert winograd.is_faster(x, weight, padding=(1, 1, 1))
    y = winograd.convolve(x, weight, None)
    (grad,) = torch.autograd.grad(y.float().sum(), weight)
    assert (y.dtype, grad.dtype) == (torch.bfloat16, torch.bfloat16)
    assert relative(y, usual(x.double(), weight.detach().double(), None)) < 0.006


def test_float32_errors_are_of_the_size_of_rounding():
    """Against float64, beside the usual convolution of the same numbers."""
    torch.manual_seed(0)
    x, layer = tensor(2, 32, 12, 14, 16, kind=torch.float32), torch.nn.Conv3d(32, 32, 3, padding=1)
    exact = usual(x.double(), layer.weight.double(), layer.bias.double()).detach()
    with use_cpu_kernels():
        assert winograd.is_faster(x, layer.weight, padding=(1, 1, 1))
        fewer = layer(x)
    assert not torch.equal(fewer, layer(x))
    assert relative(fewer, exact) < 1e-6
    assert torch.equal(torch.autograd.grad(fewer.sum(), layer.bias)[0], torch.full((32,), 5376.0))


def test_it_is_left_where_it_is_not_faster_or_would_not_be_the_same(monkeypatch):
    x, weight = tensor(1, 32, 12, 12, 12, kind=torch.bfloat16), torch.randn(32, 32, 3, 3, 3)
    weight = weight.bfloat16()

    def is_faster(x=x, weight=weight, padding=(1, 1, 1), **options):
        return winograd.is_faster(x, weight, padding=padding, **options)

    assert is_faster()
    assert is_faster(tensor(1, 32, 13, 12, 12, kind=torch.bfloat16))  # along y
    assert is_faster(tensor(1, 32, 40, 40, kind=torch.bfloat16), weight[:, :, 0], padding=(1, 1))
    assert not is_faster(tensor(1, 32, 13, 13, 12, kind=torch.bfloat16))  # only x is even
    assert not is_faster(tensor(1, 32, 8, 8, 8, kind=torch.bfloat16))  # small
    assert not is_faster(x.contiguous())
    assert is_faster(x.float(), weight.float())
    assert is_faster(tensor(1, 16, 12, 12, 12, kind=torch.float32), weight[:16, :16].float())
    assert not is_faster(tensor(1, 16, 12, 12, 12, kind=torch.bfloat16), weight[:16, :16])
    assert not is_faster(x.double())
    assert not is_faster(x.to("meta"))
    assert not is_faster(padding=(0, 1, 1))
    assert not is_faster(stride=(2, 1, 1))
    assert not is_faster(
        tensor(1, 4, 12, 12, 12, kind=torch.bfloat16), weight[:, :4]
    )  # few channels
    assert not is_faster(weight=weight[..., :2])  # even kernels
    assert not is_faster(weight=weight[:, :, :1, :1, :1], padding=(0, 0, 0))
    with torch.autocast("cpu", torch.bfloat16):
        assert is_faster(x.float())
    monkeypatch.setattr(autocast, "has_amx", lambda: True)
    assert not is_faster()


@pytest.mark.parametrize("slab", [1, 2000, 1 << 30])
@pytest.mark.parametrize(
    ("size", "kernel", "axis"),
    [
        ((8, 5, 6), (3, 3, 3), 2),
        ((5, 12, 7), (3, 3, 3), 3),
        ((6, 8, 4), (1, 3, 3), 3),
        ((4, 6, 5), (3, 5, 1), 2),
        ((16, 9), (3, 3), 2),
    ],
)
def test_groups_of_four_give_the_values_of_the_usual_way(size, kernel, axis, slab):
    torch.manual_seed(0)
    x, weight, bias = (
        tensor(2, 4, *size),
        torch.randn(3, 4, *kernel).double(),
        torch.randn(3).double(),
    )
    slabs = winograd._slabs(x, weight, axis, slab, 4)
    assert [lo for lo, _ in slabs][1:] == [hi for _, hi in slabs][:-1]
    found = winograd_fours.convolve(x, weight, bias, axis, slabs)
    torch.testing.assert_close(found, usual(x, weight, bias), atol=1e-11, rtol=1e-11)
    assert found.is_contiguous(memory_format=LAYOUTS[found.ndim])


def test_predictions_in_float32_take_groups_of_four_and_errors_stay_small():
    torch.manual_seed(0)
    x, weight = tensor(1, 32, 16, 20, 20), torch.randn(32, 32, 3, 3, 3) / 30
    exact = usual(x, weight.double(), None)
    x = x.float().contiguous(memory_format=LAYOUTS[5])
    assert winograd.is_faster(x, weight, padding=(1, 1, 1))
    with torch.no_grad():
        fours = winograd.convolve(x, weight, None)
    pairs = winograd.convolve(x, weight.requires_grad_(), None)
    assert not torch.equal(fours, pairs)
    assert relative(pairs, exact) < 1e-6
    assert relative(fours, exact) < 5e-6
