"""Instance norm against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctseg.nets.blocks import ConvNormAct
from ctseg.nets.config import UNet3DConfig
from ctseg.nets.norm import GroupNorm, InstanceNorm

FORMATS = [torch.contiguous_format, torch.channels_last_3d]


def pair(channels: int) -> tuple[InstanceNorm, nn.InstanceNorm3d]:
    theirs = nn.InstanceNorm3d(channels, affine=True)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours = InstanceNorm(channels)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1, 3, 4, 5), (2, 5, 6, 4, 5), (3, 32, 4, 8, 7)])
def test_values_and_gradients_are_those_of_torch(shape, memory_format):
    torch.manual_seed(0)
    ours, theirs = pair(shape[1])
    x = (torch.randn(shape) * 3 + 5).to(memory_format=memory_format)
    grad = torch.randn(shape)
    results = []
    for norm in (ours, theirs):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm(leaf)
        y.backward(grad)
        results.append((y, leaf.grad, norm.weight.grad, norm.bias.grad))
    for ours_value, torch_value in zip(*results, strict=True):
        torch.testing.assert_close(ours_value, torch_value, atol=1e-4, rtol=1e-5)


def test_values_agree_to_1e_minus_5():
    torch.manual_seed(1)
    ours, theirs = pair(8)
    x = torch.randn(2, 8, 6, 6, 6).to(memory_format=torch.channels_last_3d)
    assert (ours(x) - theirs(x)).abs().max() < 1e-5


def test_gradients_are_right_in_double_precision():
    torch.manual_seed(2)
    norm = InstanceNorm(3).double()
    x = torch.randn(2, 3, 2, 3, 2, dtype=torch.float64).to(memory_format=torch.channels_last_3d)
    weight, bias = norm.weight.detach().clone(), norm.bias.detach().clone()

    def call(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(call, leaves)


def test_half_precision_keeps_layout_type_and_float_statistics():
    torch.manual_seed(3)
    ours, theirs = pair(16)
    x = (torch.randn(2, 16, 8, 8, 8) + 30).to(torch.bfloat16)
    x = x.to(memory_format=torch.channels_last_3d)
    y = ours(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    # one rounding of the result; statistics in bfloat16 would be off by whole tenths at a mean of 30
    torch.testing.assert_close(y.float(), theirs(x.float()), atol=0.02, rtol=0.01)


def test_only_the_wanted_gradients_are_computed():
    norm = InstanceNorm(4)
    norm.weight.requires_grad_(False)
    x = torch.randn(2, 4, 3, 3, 3).to(memory_format=torch.channels_last_3d)
    norm(x).square().sum().backward()
    assert norm.weight.grad is None
    assert norm.bias.grad is not None


@pytest.mark.parametrize("strided", [False, True])
def test_one_voxel_gives_the_bias(strided):
    """On either way through: a strided tensor takes that of a GPU."""
    norm = InstanceNorm(2)
    nn.init.constant_(norm.bias, 0.5)
    x = torch.randn(2, 4, 1, 1, 1)[:, ::2] if strided else torch.randn(1, 2, 1, 1, 1)
    y = norm(x.requires_grad_())
    torch.testing.assert_close(y, torch.full_like(x, 0.5), atol=1e-4, rtol=0)
    y.sum().backward()
    assert norm.weight.grad is not None and norm.weight.grad.isfinite().all()


@pytest.mark.parametrize("needs_gradient", [False, True])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_group_norm_has_the_values_and_gradients_of_torch(memory_format, needs_gradient):
    """Also for a channels-last input without a gradient, for which PyTorch's backward crashes."""
    torch.manual_seed(4)
    theirs, ours = nn.GroupNorm(4, 8), GroupNorm(4, 8)
    x = torch.randn(2, 8, 3, 4, 5)
    grad = torch.randn(2, 8, 3, 4, 5)
    theirs(x).backward(grad)
    leaf = x.clone(memory_format=memory_format).requires_grad_(needs_gradient)
    y = ours(leaf)
    y.backward(grad)
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_group_norm_learns_from_a_single_channel_stored_last():
    norm = GroupNorm(1, 1)
    x = torch.empty(2, 1, 4, 4, 4, memory_format=torch.channels_last_3d).normal_()
    norm(x).square().sum().backward()
    assert norm.weight.grad is not None and norm.weight.grad.isfinite().all()


def test_group_norm_of_one_voxel_gives_the_bias():
    norm = GroupNorm(2, 2)
    nn.init.constant_(norm.bias, 0.5)
    x = torch.randn(1, 2, 1, 1, 1)
    torch.testing.assert_close(norm(x), torch.full_like(x, 0.5))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1, 1), (1, 1, 3, 4, 5), (2, 5, 6, 4, 5)])
def test_leaky_relu_in_one_with_the_norm_is_that_behind_it(shape, memory_format):
    torch.manual_seed(5)
    norm, _ = pair(shape[1])
    x = (torch.randn(shape) * 3 + 5).contiguous(memory_format=memory_format)
    grad, results = torch.randn(shape), []
    for run in (
        lambda t: norm.activated(t.clone(), 0.1),
        lambda t: torch.nn.functional.leaky_relu(norm(t), 0.1),
    ):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        norm.zero_grad()
        y = run(leaf)
        y.backward(grad)
        results.append((y.detach(), leaf.grad, norm.weight.grad, norm.bias.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(norm.activated(x.clone(), 0.1), results[1][0])


def test_leaky_relu_in_one_with_the_norm_has_right_gradients():
    torch.manual_seed(6)
    norm = InstanceNorm(3).double()
    x = torch.randn(2, 3, 2, 3, 2, dtype=torch.float64).to(memory_format=torch.channels_last_3d)
    assert torch.autograd.gradcheck(lambda t: norm.activated(t, 0.1), x.requires_grad_())


def test_a_hook_sees_what_the_norm_gave():
    net = ConvNormAct(1, 4, UNet3DConfig(), kernel=(3, 3, 3))
    seen = []
    net.norm.register_forward_hook(lambda _, inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        y = net(torch.randn(1, 1, 4, 4, 4))
    torch.testing.assert_close(torch.nn.functional.leaky_relu(seen[0], 0.01), y)
