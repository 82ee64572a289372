"""The U-Nets: shapes, options, plans. What every network must do is in test_registry_networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from ctseg.errors import ConfigError
from ctseg.nets.blocks import Upsample
from ctseg.nets.config import (
    ResidualUNet3DConfig,
    UNet3DConfig,
    residual_unet_from_plan,
    unet_constraints,
    unet_from_plan,
)
from ctseg.nets.residual import Shortcut
from ctseg.nets.unet import residual_unet3d, unet3d
from ctseg.specs import NetworkPlan

SMALL = {"features": (4, 6, 8)}


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameters_of_the_plain_unet_counted_by_hand():
    net = unet3d(UNet3DConfig(features=(4, 6)), in_channels=1, out_channels=2)

    def block(i: int, o: int) -> int:
        return i * o * 27 + o + 2 * o  # convolution, bias, affine norm

    encoder = block(1, 4) + block(4, 4) + block(4, 6) + block(6, 6)
    decoder = (6 * 4 * 8 + 4) + block(8, 4) + block(4, 4)
    assert parameters(net) == encoder + decoder + (4 * 2 + 2)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch"},
        {"norm": "group", "norm_groups": 8},
        {"norm": "none"},
        {"activation": "relu"},
        {"activation": "elu"},
        {"activation": "gelu"},
        {"activation": "silu"},
        {"dropout": 0.2},
        {"upsampling": "trilinear"},
        {"skip": "sum"},
        {"bias": False},
        {"kernels_zyx": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "strides_zyx": ((1, 2, 2), (2, 2, 2))},
        {"strides_zyx": ((1, 1, 1), (3, 2, 1))},
    ],
    ids=str,
)
@pytest.mark.parametrize("residual", [False, True])
def test_every_option_builds_a_network_that_learns(options, residual):
    torch.manual_seed(0)
    if residual:
        config = ResidualUNet3DConfig(**SMALL, **options)
        net = residual_unet3d(config, in_channels=2, out_channels=3)
    else:
        config = UNet3DConfig(**SMALL, **options)
        net = unet3d(config, in_channels=2, out_channels=3)
    shape = [2 * s for s in unet_constraints(config).stride_zyx]
    y = net(torch.randn(2, 2, *shape))
    assert y.shape == (2, 3, *shape)
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_deep_supervision_is_finest_first_in_training_and_one_tensor_in_evaluation():
    config = UNet3DConfig(features=(4, 4, 4, 4), deep_supervision=True)
    net = unet3d(config, in_channels=1, out_channels=2)
    x = torch.randn(1, 1, 16, 16, 16)
    assert [tuple(y.shape[2:]) for y in net(x)] == [(16,) * 3, (8,) * 3, (4,) * 3]
    with torch.no_grad():
        finest = net(x)[0]
        assert torch.allclose(net.eval()(x), finest, atol=1e-6)


def test_constraints_multiply_the_strides():
    config = UNet3DConfig(**SMALL, strides_zyx=((1, 2, 2), (2, 2, 3)))
    assert unet_constraints(config).stride_zyx == (2, 4, 6)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"features": (32,)}, "features"),
        ({"norm": "layer"}, "norm"),
        ({"skip": "add"}, "skip"),
        ({"kernels_zyx": ((2, 3, 3),) * 4}, "even"),
        ({"kernels_zyx": ((3, 3, 3),)}, "4 triples"),
        ({"strides_zyx": ((2, 2),) * 3}, "3 triples"),
        ({"strides_zyx": ((0, 2, 2),) * 3}, "3 triples"),
        ({"dropout": 1.0}, "dropout"),
        ({"norm_groups": 0}, "norm_groups"),
        ({"convs_per_level": 0}, "convs_per_level"),
    ],
)
def test_impossible_options_are_refused_with_their_mend(options, found):
    with pytest.raises(ConfigError, match=found) as caught:
        UNet3DConfig(**options)
    assert caught.value.hint


@pytest.mark.parametrize("options", [{"blocks_per_level": (1, 2)}, {"decoder_convs_per_level": 0}])
def test_impossible_residual_options_are_refused(options):
    with pytest.raises(ConfigError) as caught:
        ResidualUNet3DConfig(**options)
    assert caught.value.hint


def test_residual_blocks_follow_the_depth():
    assert ResidualUNet3DConfig().blocks == (1, 3, 4, 6)
    assert ResidualUNet3DConfig(features=(4,) * 6).blocks == (1, 3, 4, 6, 6, 6)


# Strides and kernels that nnU-Net 2 publishes in its plans for these data sets.
PLANS = [
    ((40, 56, 40), (1.0, 1.0, 1.0), [(2, 2, 2)] * 3, [(3, 3, 3)] * 4),  # Task004 hippocampus
    ((128, 128, 128), (1.0, 0.8, 0.8), [(2, 2, 2)] * 5, [(3, 3, 3)] * 6),  # Task003 liver
    (
        (20, 320, 256),  # Task005 prostate
        (3.6, 0.62, 0.62),
        [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)],
        [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
    ),
]


@pytest.mark.parametrize(("patch", "spacing", "strides", "kernels"), PLANS)
def test_plans_are_those_of_nnunet(patch, spacing, strides, kernels):
    config = unet_from_plan(NetworkPlan(patch, spacing, 1, 3))
    assert list(config.strides_zyx) == strides
    assert list(config.kernels_zyx) == kernels
    assert config.features == tuple(min(320, 32 * 2**i) for i in range(len(kernels)))


def test_plans_for_slices_and_tiny_patches():
    flat = unet_from_plan(NetworkPlan((1, 64, 64), (5.0, 1.0, 1.0), 1, 2, dims=2))
    assert {s[0] for s in flat.strides_zyx} == {1}
    assert {k[0] for k in flat.kernels_zyx} == {1}
    tiny = residual_unet_from_plan(NetworkPlan((4, 4, 4), (1.0, 1.0, 1.0), 1, 2))
    assert unet_constraints(tiny).stride_zyx == (1, 1, 1)
    assert len(tiny.features) == 2


@pytest.mark.parametrize("architecture", [unet_from_plan, residual_unet_from_plan])
def test_how_thick_a_single_slice_is_does_not_matter(architecture):
    """A picture with pixels of 0.8 mm whose one slice is said to be 0.1 or 5 mm thick."""
    thin, thick = (architecture(NetworkPlan((1, 64, 64), (z, 0.8, 0.8), 1, 2)) for z in (0.1, 5.0))
    assert thin == thick
    assert set(thin.kernels_zyx) == {(1, 3, 3)}


def test_suggested_features_set_width_and_limit_depth():
    plan = NetworkPlan((64, 64, 64), (1.0, 1.0, 1.0), 1, 2, features=(8, 16, 24))
    assert unet_from_plan(plan).features == (8, 16, 24)


def test_shortcut_is_pooling_then_projection():
    torch.manual_seed(0)
    config = ResidualUNet3DConfig(norm="none")
    shortcut = Shortcut(3, 5, config, stride=(1, 2, 3))
    x = torch.randn(2, 3, 2, 4, 6)
    pooled = functional.avg_pool3d(x, (1, 2, 3))
    assert torch.allclose(shortcut(x), shortcut.conv(pooled), atol=1e-6)


def test_upsampling_with_and_without_gradients_agree():
    torch.manual_seed(0)
    upsample = Upsample(3, 2, UNet3DConfig(), stride=(1, 2, 2))
    nn.init.normal_(upsample.conv.bias)
    x = torch.randn(1, 3, 2, 3, 4)
    with torch.no_grad():
        plain = upsample(x)
    assert torch.allclose(upsample(x), plain, atol=1e-6)
