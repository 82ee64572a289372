"""`unet2d`: slices by themselves, with the options of the 3D one."""

from __future__ import annotations

import pytest
import torch

import ctseg
from ctseg.errors import ConfigError
from ctseg.nets.slicewise import fold, unfold
from ctseg.nets.slicewise_config import UNet2DConfig, unet2d_constraints, unet2d_from_plan
from ctseg.specs import NetworkPlan

SMALL = {"features": (4, 6, 8)}


def make(**options):
    torch.manual_seed(0)
    return ctseg.create_model("unet2d", in_channels=2, out_channels=3, **(SMALL | options))


def test_a_slice_is_what_it_is_alone():
    net, x = make().eval(), torch.randn(2, 2, 5, 16, 24)
    with torch.no_grad():
        together = net(x)
        alone = torch.cat([net(x[:, :, z : z + 1]) for z in range(5)], 2)
    assert together.shape == (2, 3, 5, 16, 24)
    torch.testing.assert_close(together, alone)


def test_it_is_the_same_network_with_2d_convolutions():
    """Against torch's own 2D layers, run on one slice with the weights squeezed."""
    net = make(norm="none", features=(4, 6), convs_per_level=1).eval()
    state = {k: v.squeeze(2) if v.ndim == 5 else v for k, v in net.state_dict().items()}
    convs = [(state[k], state[k.replace("weight", "bias")]) for k in state if state[k].ndim == 4]
    assert len(convs) == 5  # two down, one up, one level, one head
    (a, a0), (b, b0), (up, up0), (c, c0), (head, head0) = convs
    act, conv = torch.nn.functional.leaky_relu, torch.nn.functional.conv2d
    x = torch.randn(1, 2, 1, 8, 8)
    fine = act(conv(x[:, :, 0], a, a0, padding=1), 0.01)
    coarse = act(conv(fine, b, b0, stride=2, padding=1), 0.01)
    y = torch.nn.functional.conv_transpose2d(coarse, up, up0, stride=2)
    y = act(conv(torch.cat((y, fine), 1), c, c0, padding=1), 0.01)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[:, :, 0], conv(y, head, head0))


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch"},
        {"norm": "group", "activation": "gelu", "dropout": 0.2},
        {"upsampling": "trilinear", "skip": "sum", "bias": False},
        {"kernels_zyx": ((1, 5, 5), (1, 3, 3), (1, 3, 3)), "strides_zyx": ((1, 2, 1), (1, 2, 2))},
        {"convs_per_level": 1},
    ],
    ids=str,
)
def test_the_options_of_the_3d_one_hold(options):
    net, x = make(**options).train(), torch.randn(2, 2, 2, 16, 16)
    y = net(x)
    assert y.shape == (2, 3, 2, 16, 16)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_deep_supervision_keeps_all_slices_at_every_level():
    net = make(deep_supervision=True).train()
    shapes = [tuple(y.shape[2:]) for y in net(torch.randn(1, 2, 3, 16, 16))]
    assert shapes == [(3, 16, 16), (3, 8, 8)]


def test_folding_is_undone_and_copies_nothing():
    x = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    slices = fold(x)
    assert slices.data_ptr() == x.data_ptr()
    assert slices.is_contiguous(memory_format=torch.channels_last)
    back = unfold(slices, 2)
    assert torch.equal(back, x)
    assert back.data_ptr() == x.data_ptr()
    plain = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(fold(plain)[5], plain[1, :, 1])
    assert torch.equal(unfold(fold(plain), 2), plain)


def test_plans_and_constraints_leave_z_alone():
    config = unet2d_from_plan(NetworkPlan((8, 320, 256), (0.4, 0.8, 0.8), 1, 2, dims=2))
    assert {s[0] for s in config.strides} == {k[0] for k in config.kernels} == {1}
    assert all(k[1:] == (3, 3) for k in config.kernels)
    demands = unet2d_constraints(config)
    assert demands.stride_zyx[0] == 1
    assert demands.dims == 2
    assert demands.min_tile_zyx[1] == 2 * demands.stride_zyx[1]


@pytest.mark.parametrize("name", ["kernels_zyx", "strides_zyx"])
def test_z_in_the_options_is_refused(name):
    count = 3 if name == "kernels_zyx" else 2
    with pytest.raises(ConfigError, match="1 along z") as caught:
        UNet2DConfig(**SMALL, **{name: ((3, 3, 3),) * count})
    assert "unet3d" in caught.value.hint
