"""A transposed convolution fused with what follows, against the modules one after another."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import ctseg
from ctseg.nets.blocks import ConvNormAct, Upsample
from ctseg.nets.config import UNet3DConfig
from ctseg.nets.cpu import autocast, fused_upsample, use_cpu_kernels
from ctseg.nets.options import Skip

SIZE = (8, 12, 8)


@pytest.fixture(autouse=True)
def bf16_processor(monkeypatch):
    monkeypatch.setattr(autocast, "has_amx", lambda: False)


def never(*_: object) -> bool:
    return False


def is_faster(*arguments) -> bool:
    """In mixed precision."""
    with torch.autocast("cpu", torch.bfloat16):
        return REAL(*arguments)


REAL = fused_upsample.is_faster


def level(stride=(2, 2, 2), kernel=(3, 3, 3), **options):
    """A transposed convolution from 12 to 6 channels and a level from 6 + 6 to 4."""
    config = UNet3DConfig(features=(6, 12), **options)
    upsample = Upsample(12, 6, config, stride=stride)
    block = ConvNormAct(12, 4, config, kernel=kernel)
    for parameter in (*upsample.parameters(), *block.parameters()):
        nn.init.normal_(parameter, std=0.3)
    below = torch.randn(2, 12, *(n // s for n, s in zip(SIZE, stride, strict=True)))
    return upsample, nn.Sequential(block), below, torch.randn(2, 6, *SIZE)


def usual(upsample, conv, below, skip, *, skip_first):
    """By PyTorch's functions alone."""
    up = functional.conv_transpose3d(below, upsample.weight, upsample.bias, upsample.stride)
    joined = torch.cat((skip, up) if skip_first else (up, skip), 1)
    return functional.conv3d(joined, conv.weight, conv.bias, padding=conv.padding)


@pytest.mark.parametrize("skip_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("stride", "kernel"),
    [
        ((2, 2, 2), (3, 3, 3)),
        ((1, 2, 2), (3, 3, 3)),
        ((1, 2, 2), (1, 3, 3)),
        ((2, 2, 4), (3, 5, 1)),
        ((2, 3, 1), (1, 1, 1)),
    ],
)
def test_values_and_gradients_are_those_of_the_layers(stride, kernel, bias, skip_first):
    torch.manual_seed(0)
    upsample, layers, below, skip = level(stride, kernel, bias=bias)
    up, conv = upsample.conv.double(), layers[0].conv.double()
    leaves = [below.double(), skip.double(), *up.parameters(), *conv.parameters()]
    for leaf in leaves:
        leaf.requires_grad_()
    results = []
    for way in (usual, fused_upsample.convolve):
        y = way(up, conv, *leaves[:2], skip_first=skip_first)
        weight = torch.arange(y.numel(), dtype=torch.float64).view_as(y).sin()
        results.append((y, *torch.autograd.grad((y * weight).sum(), leaves)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_the_fused_kernels_gradients_in_bfloat16_are_as_near_as_the_usual_ones():
    torch.manual_seed(4)
    kernels = torch.randn(24, 16, 2, 2, 2), torch.randn(20, 16, 3, 3, 3)
    grad = torch.randn(24, 20, 4, 4, 4).bfloat16()

    def usual(first, then, kind):
        return functional.conv_transpose3d(
            first.to(kind), then.to(kind).flip(2, 3, 4).transpose(0, 1)
        )

    found = []
    for way, kind in (
        (usual, torch.float64), (usual, torch.bfloat16), (fused_upsample._merge, torch.bfloat16)
    ):  # fmt: skip
        leaves = [kernel.clone().requires_grad_() for kernel in kernels]
        y = way(*leaves, kind)
        assert (y.dtype, y.shape) == (kind, grad.shape)
        found.append([y.detach(), *torch.autograd.grad(y, leaves, grad.to(kind))])
    for exact, *two in zip(*found, strict=True):
        errors = [float((t.double() - exact).norm() / exact.norm()) for t in two]
        assert errors[1] <= 1.1 * errors[0] < 0.01


def test_values_at_the_border_have_right_gradients():
    torch.manual_seed(1)
    y = torch.randn(2, 2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    table = torch.randn(3, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda y, t: fused_upsample._add_at_border(y.clone(), t), (y, table)
    )


@pytest.mark.parametrize("skip", ["concat", "concat_skip_first"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_a_network_gives_what_it_gives_without(monkeypatch, skip: Skip, memory_format):
    """In float32, where the two differ by rounding alone."""
    torch.manual_seed(2)
    net = ctseg.create_model(
        "unet3d", in_channels=1, out_channels=2, features=(16, 32, 64), skip=skip
    )
    x = torch.randn(2, 1, 24, 24, 24).contiguous(memory_format=memory_format)
    found = []
    monkeypatch.setattr(
        fused_upsample, "is_faster", lambda *a: found.append(is_faster(*a)) or found[-1]
    )
    with use_cpu_kernels():
        ours = net(x)
    assert found[-1]  # at full resolution
    found.clear()
    assert (ours - net(x)).abs().max() < 1e-5
    assert not found


def test_bfloat16_is_as_near_to_float32_as_without(monkeypatch):
    torch.manual_seed(3)
    net = ctseg.create_model("unet3d", in_channels=1, out_channels=2, features=(16, 32))
    x = torch.randn(1, 1, 24, 24, 24).contiguous(memory_format=torch.channels_last_3d)
    errors, taken = [], []
    real = fused_upsample.convolve
    monkeypatch.setattr(
        fused_upsample, "convolve", lambda *a, **k: taken.append(1) or real(*a, **k)
    )
    with torch.no_grad():
        exact = net(x)
        for way in (REAL, never):
            monkeypatch.setattr(fused_upsample, "is_faster", way)
            with autocast.activated(), torch.autocast("cpu", torch.bfloat16):
                y = net(x)
            assert y.dtype == torch.bfloat16
            errors.append((y.float() - exact).norm() / exact.norm())
    assert taken == [1]
    assert errors[0] < 1.2 * errors[1]


def test_it_is_left_where_it_is_not_faster_or_would_not_be_the_same(monkeypatch):
    upsample, layers, below, skip = level()
    below, skip = torch.randn(2, 12, 12, 12, 12), torch.randn(2, 6, 24, 24, 24)
    assert is_faster(upsample, layers, below, skip)
    assert REAL(upsample, layers, below.bfloat16(), skip.bfloat16())
    assert REAL(upsample, layers, below, skip)
    assert not REAL(upsample, layers, below.half(), skip.half())
    assert not is_faster(upsample, layers, below[..., :2], skip[..., :4])  # small volumes
    assert not is_faster(upsample, layers, below, skip[..., :-1])  # sizes that do not fit
    assert not is_faster(upsample, layers, below.to("meta"), skip.to("meta"))
    assert not is_faster(upsample, layers[0], below, skip)
    few = [t[:1, :, :4, :4, :4] for t in (below, skip)]
    assert not is_faster(upsample, layers, few[0][..., :2, :2, :2], few[1])  # merging costs more
    for change in (
        {"groups": 2}, {"dilation": (2, 2, 2)}, {"stride": (2, 2, 2)}, {"padding_mode": "reflect"},
        {"padding": (0, 0, 0)},
    ):  # fmt: skip
        other = copy.deepcopy(layers)
        for name, value in change.items():
            setattr(other[0].conv, name, value)
        assert not is_faster(upsample, other, below, skip), change
    for options in ({"layer_order": "icl"}, {"upsampling": "trilinear"}):
        assert not is_faster(*level(**options)[:2], below, skip)
    monkeypatch.setattr(autocast, "has_amx", lambda: True)
    assert not is_faster(upsample, layers, below, skip)


@pytest.mark.parametrize("place", ["upsample", "conv", "level"])
def test_hooks_are_called_as_ever(place):
    net = ctseg.create_model("unet3d", in_channels=1, out_channels=2, features=(16, 32))
    level = net.decoder[0]
    module = {"upsample": net.upsamplers[0], "conv": level[0].conv, "level": level}[place]
    seen = []
    module.register_forward_hook(lambda *_: seen.append(1))
    with use_cpu_kernels(), torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(1, 1, 24, 24, 24))
    assert seen == [1]
